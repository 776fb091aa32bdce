"""A run that takes days takes no time that others want."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def take_the_lowest_priority() -> None:
    """Leave the processor to everybody else.

    Linux divides time between sessions before it looks at the priorities of processes (autogroups). So a run without a
    terminal gets a session of its own, and that session the lowest priority too.
    """
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with suppress(OSError):  # another kernel, or a process that leads its session and would take others along
        if not sys.stdin.isatty():
            os.setsid()
            Path("/proc/self/autogroup").write_text("19")
