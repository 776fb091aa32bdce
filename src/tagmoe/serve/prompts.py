"""What becomes of a prompt before it is drawn: the rewriter of `tagmoe edit --rewrite`, asked once a request."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from tagmoe.rewrite.rewriter import Rewriting
from tagmoe.serve.refusal import Refusal


class Prompts:
    """rewriter: one of `tagmoe.rewrite`; None: prompts stay. spares: prompts that it is not asked about."""

    def __init__(self, rewriter: Any = None, spares: Callable[[str], bool] = lambda prompt: False) -> None:
        self._rewriter, self._spares = rewriter, spares

    async def rewritten(self, prompt: str, pictures: Sequence[Image]) -> Rewriting | None:
        """The rewriting of a prompt; None where none was tried."""
        if self._rewriter is None or self._spares(prompt):
            return None
        if inspect.iscoroutinefunction(self._rewriter.rewrite):
            found: Rewriting = await self._rewriter.rewrite(prompt, pictures)
            return found
        return await asyncio.to_thread(self._rewriter.rewrite, prompt, pictures)

    async def close(self) -> None:
        """Close the model behind the rewriter."""
        vlm = getattr(self._rewriter, "vlm", None)
        if vlm is not None:
            await vlm.close()


def with_reason(refusal: Refusal, rewriting: Rewriting | None) -> Refusal:
    """The refusal of a prompt; where a rewriter failed on it, with the reason why it was not rewritten."""
    if refusal.param != "prompt" or rewriting is None or rewriting.status != "fallback":
        return refusal
    return Refusal(f"{str(refusal).removesuffix('.')}; and {rewriting.reason}.", "prompt", code=refusal.code)
