"""Rewriting for TagWorld by its grammar: no model, a few milliseconds. Every new text is one of the grammar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tagmoe.errors import TagMoEError
from tagmoe.rewrite.rewriter import RewriteStatus, Rewriting
from tagmoe.world.rephrase import Rephrased, rephrase

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL = "TagWorld grammar"
GRAMMAR_VERSION = "1"


class GrammarRewriter:
    """(instruction, images) -> the instruction in TagWorld's full grammar, or as it is. results: see
    `tagmoe.rewrite.rewriter.InstructionRewriter`."""

    def __init__(self) -> None:
        self.results: list[Rewriting] = []

    def __call__(self, instruction: str, images: Sequence[Image]) -> str:
        """The instruction to use."""
        self.results.append(self.rewrite(instruction, images))
        return self.results[-1].text

    def rewrite(self, instruction: str, images: Sequence[Image]) -> Rewriting:
        """The rewriting of an instruction on its source pictures."""
        started = time.monotonic()
        try:
            found = rephrase(instruction, images)
        except TagMoEError as error:
            found = Rephrased(None, None, None, str(error))
        status: RewriteStatus = "fallback" if found.text is None else "ok"
        if found.text == instruction:
            status = "unchanged"
        return Rewriting(
            instruction,
            found.text or instruction,
            status,
            reason="" if status == "ok" else found.reason,
            task_guess=found.descriptor,
            language="English",
            attempts=1,
            model=MODEL,
            prompt_version=GRAMMAR_VERSION,
            seconds=time.monotonic() - started,
        )

    def close(self) -> None:
        """Do nothing: there is no model and no connection to close."""
