"""What a callback may see and change after a step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from tagmoe.errors import UsageError


def check_callback(callback: Any, names: Collection[str], known: Collection[str]) -> None:
    """Raise UsageError for a callback that cannot be called, or one that asks for tensors that it cannot get."""
    if callback is not None and not callable(callback):
        raise UsageError(f"callback_on_step_end is of type {type(callback).__name__}; give a function.")
    if unknown := sorted(set(names) - set(known)):
        raise UsageError(f"A callback cannot get {', '.join(unknown)}; it can get {', '.join(known)}.")


def after_step(answer: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors after a callback: those it answers with replace the old ones. None or an empty dict changes nothing.

    Raises UsageError for an answer that is no dict, and for a tensor of another shape.
    """
    if answer is not None and not isinstance(answer, Mapping):
        raise UsageError(f"callback_on_step_end answered with {type(answer).__name__}; it must answer a dict or None.")
    changed = dict(tensors)
    for name, old in tensors.items():
        new = (answer or {}).get(name, old)
        if not isinstance(new, torch.Tensor) or new.shape != old.shape:
            shown = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
            raise UsageError(f"callback_on_step_end gave {name} as {shown}; give a tensor of shape {tuple(old.shape)}.")
        changed[name] = new.to(old)
    return changed
