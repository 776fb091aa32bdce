"""Print a free port of this machine, for the meeting point of torchrun's processes."""

from __future__ import annotations

import socket

if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        print(free.getsockname()[1])
