"""Several conditions in one batch, and classifier-free guidance over their predictions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from tagmoe.pipeline.encoding import Text


def stack_texts(conditions: list[Text], repeats: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All conditions in one batch of one length, every prompt `repeats` times; no mask when nothing is padded."""
    longest = max(mask.shape[1] for _, mask in conditions)
    embeds, masks = [], []
    for embed, mask in conditions:
        missing = longest - mask.shape[1]
        embeds.append(torch.nn.functional.pad(embed, (0, 0, 0, missing)).repeat_interleave(repeats, dim=0))
        masks.append(torch.nn.functional.pad(mask, (0, missing)).repeat_interleave(repeats, dim=0))
    mask = torch.cat(masks)
    return torch.cat(embeds), None if bool(mask.all()) else mask


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float, rescale: bool) -> torch.Tensor:
    """Classifier-free guidance; with `rescale` every token keeps the length of its conditional prediction (release)."""
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
