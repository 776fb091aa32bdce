"""The step `edit`: an editor makes the targets of instructions, in the process of the run or in one of its own.

A call that fails or takes too long is made again row by row; a row that fails alone is listed with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tagmoe.editor import Editor
from tagmoe.errors import ImageError, TagMoEError
from tagmoe.evaluate.answers.answer import RAISED, NoMoreAnswers, reason_raised
from tagmoe.factory.apart import EditorApart
from tagmoe.factory.making import Made
from tagmoe.factory.requests import Request
from tagmoe.pictures import load_image, png_of
from tagmoe.report.printable import printable
from tagmoe.sentences import counted


@dataclass(frozen=True)
class OpenEditing:
    """Opens an editor as a maker. make: makes the editor. timeout: seconds of a call; None: in the same process."""

    make: Callable[[], Editor]
    timeout: float | None

    def __call__(self) -> Editing:
        return Editing(self.make() if self.timeout is None else EditorApart(self.make, self.timeout))


class Editing:
    """An editor as a maker."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def __call__(self, asked: Sequence[Request]) -> list[Made]:
        """The pictures of a batch. When the call fails, each row is asked by itself: one does not fail others."""
        started = time.perf_counter()
        try:
            images = [[load_image(picture.data) for picture in request.pictures] for request in asked]
            outputs = list(self._editor([one.wish.instruction for one in asked], images, [one.seed for one in asked]))
            if len(outputs) != len(asked):
                raise TagMoEError(f"The editor gave {counted(outputs, 'picture')} for {counted(asked, 'row')}.")
            made = [png_of(load_image(output)) for output in outputs]
        except NoMoreAnswers:
            raise
        except RAISED as error:
            if len(asked) > 1:
                return [answer for one in asked for answer in self([one])]
            why = str(error) if isinstance(error, ImageError) else reason_raised(error)
            seconds = time.perf_counter() - started
            return [Made(asked[0].id, "failed", printable(why), seconds=seconds)]
        seconds = (time.perf_counter() - started) / len(asked)
        return [Made(one.id, "ok", data=data, seconds=seconds) for one, data in zip(asked, made, strict=True)]

    def close(self) -> None:
        """End the editor's process."""
        if isinstance(self._editor, EditorApart):
            self._editor.close()
