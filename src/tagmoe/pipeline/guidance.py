"""Classifier-free guidance: stack the conditions into one batch, and combine their predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from diffusers.utils import logging
from torch.nn.functional import pad

from tagmoe.errors import UsageError
from tagmoe.pipeline.arguments import is_number
from tagmoe.pipeline.encoding import Text

logger = logging.get_logger(__name__)


def stack_texts(conditions: list[Text], repeats: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All conditions in one batch, padded to one length, each prompt `repeats` times. No mask if nothing is padded."""
    longest = max(mask.shape[1] for _, mask in conditions)
    embeds = torch.cat([pad(embed, (0, 0, 0, longest - embed.shape[1])) for embed, _ in conditions])
    masks = torch.cat([pad(mask, (0, longest - mask.shape[1])) for _, mask in conditions])
    no_padding = bool(masks.all())
    return embeds.repeat_interleave(repeats, dim=0), None if no_padding else masks.repeat_interleave(repeats, dim=0)


def guidance_input(
    config: Mapping[str, Any], scale: Any, batch: int, device: torch.device | None = None
) -> torch.Tensor | None:
    """The guidance (B,) that a guidance-distilled transformer takes, fp32; None for any other, which ignores the scale.

    Raises UsageError when such a model gets no scale, and for a scale that is no finite number.
    """
    if scale is not None and not is_number(scale):
        raise UsageError(f"guidance_scale is {scale!r}; give a finite number.")
    if not config.get("guidance_embeds"):
        return None
    if scale is None:
        raise UsageError("This model is guidance-distilled; give guidance_scale.")
    return torch.full([batch], float(scale), device=device)


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float, rescale: bool) -> torch.Tensor:
    """Classifier-free guidance. With `rescale` (release), tokens keep the norm of the conditional prediction."""
    guided = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return guided
    length = guided.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    rescaled: torch.Tensor = guided * (conditional.norm(dim=-1, keepdim=True) / length)
    return rescaled


def first_samples(routing: Any, count: int) -> Any:
    """The routing of the first `count` samples (the batch is dimension 1), on the CPU."""
    values = {field.name: getattr(routing, field.name) for field in fields(routing)}
    return type(routing)(**{k: v[:, :count].cpu() if isinstance(v, torch.Tensor) else v for k, v in values.items()})
