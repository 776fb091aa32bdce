"""An editor in a process of its own, which is ended when a call takes too long.

An editor that hangs cannot be stopped from within its process. Here its process is killed, and the next call starts a
new one. The process ends with its parent, also when that is killed.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

from tagmoe.editor import Editor, Picture
from tagmoe.errors import TagMoEError
from tagmoe.evaluate.answers.answer import NoMoreAnswers

START_SECONDS = 600.0
"""The most seconds for loading a model."""


class EditorApart:
    """An `Editor` whose calls end after `timeout` seconds.

    make: makes the editor in the process; it must pickle. Raises TagMoEError for a call that raised or took too long or
    whose process died, and NoMoreAnswers where no process can be started.
    """

    def __init__(self, make: Callable[[], Editor], timeout: float) -> None:
        self._make, self._timeout = make, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __call__(
        self, instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        """One picture for each instruction."""
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        shown = [[np.asarray(picture) for picture in pictures] for pictures in images]
        try:
            self._pipe.send((list(instructions), shown, list(seeds)))
            if not self._pipe.poll(self._timeout):
                self.close()
                raise TagMoEError(f"The editor gave nothing within {self._timeout:g} s.")
            is_done, said = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise TagMoEError("The process of the editor died.") from None
        if not is_done:
            raise TagMoEError(said)
        return list(said)

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        # Not multiprocessing: the workers of an engine are daemons, which may start no process of its kind.
        command = [
            sys.executable,
            "-c",
            "from tagmoe.factory.editor_process import serve; serve()",
            str(theirs.fileno()),
        ]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2)
        theirs.close()
        self._pipe = Connection(ours.detach())
        try:
            self._pipe.send((list(sys.path), os.getcwd()))
            self._pipe.send_bytes(pickle.dumps(self._make))
            if not self._pipe.poll(START_SECONDS):
                raise EOFError
            is_done, said = self._pipe.recv()
        except (EOFError, OSError):
            is_done, said = False, "its process died"
        if not is_done:
            self.close()
            raise NoMoreAnswers(f"The editor cannot be started: {said.rstrip('.')}.")
