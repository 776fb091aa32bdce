"""The process of an editor: it makes the editor, and answers calls until its parent is gone (`tagmoe.factory.apart`).

It imports little, as it is started again after every call that took too long.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from asyncio import CancelledError
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from PIL import Image

from tagmoe.editor import Editor, as_array

WATCH_SECONDS = 0.5
RAISED = (Exception, SystemExit, CancelledError)
"""Equal to `tagmoe.evaluate.answers.answer.RAISED`, whose module takes longer to import; a test compares them."""


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
            pipe.send((False, _said(error)))
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
        return True, [_array(picture) for picture in editor(instructions, images, seeds)]
    except RAISED as error:
        return False, _said(error)


def _array(picture: Any) -> np.ndarray:
    if not isinstance(picture, Image.Image | np.ndarray):
        raise TypeError(f"it gave a {type(picture).__name__} and no picture")
    return as_array(picture)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _said(error: BaseException) -> str:
    from tagmoe.evaluate.answers.answer import reason_raised

    return reason_raised(error)
