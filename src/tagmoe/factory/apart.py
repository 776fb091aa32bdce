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
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.editor import Editor, Picture, as_array
from tagmoe.errors import TagMoEError
from tagmoe.evaluate.answers.answer import RAISED, NoMoreAnswers, reason_raised

START_SECONDS = 600.0
"""The most seconds for loading a model."""
WATCH_SECONDS = 0.5


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
        command = [sys.executable, "-c", "from tagmoe.factory.apart import serve; serve()", str(theirs.fileno())]
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


def serve() -> None:
    """The process: make the editor, then answer calls until the parent is gone."""
    pipe = Connection(int(sys.argv[-1]))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        sys.path[:], folder = pipe.recv()
        os.chdir(folder)
        try:
            editor = pickle.loads(pipe.recv_bytes())()
        except RAISED as error:
            pipe.send((False, reason_raised(error)))
            return
        pipe.send((True, None))
        while True:
            instructions, shown, seeds = pipe.recv()
            pipe.send(_answer(editor, instructions, shown, seeds))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _answer(editor: Editor, instructions: Any, shown: Any, seeds: Any) -> tuple[bool, Any]:
    images = [[Image.fromarray(array) for array in arrays] for arrays in shown]
    try:
        return True, [as_array(picture) for picture in editor(instructions, images, seeds)]
    except RAISED as error:
        return False, reason_raised(error)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
