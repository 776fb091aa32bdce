"""Traces and recordings made by hand: no model is needed for a routing report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tagmoe.model.routing import RoutingTrace
from tagmoe.routing.reading import Recording
from tagmoe.routing.recording import About, Facts, Shown

Grids = tuple[tuple[int, int, int], ...]
EDIT: Grids = ((1, 4, 4), (1, 4, 4))
LAYERS, EXPERTS, STEPS = 3, 4, 3
TIMES = (1.0, 0.6, 0.2)
TASKS = ("recolour", "style", "add")


def about(**changes: Any) -> About:
    given = {"model": "a model", "versions": {"torch": "2"}, "seed": 0, "steps": STEPS, "cfg": 3.0}
    return About(**(given | {"date": "today", "command": "tagmoe routing record"} | changes))


def trace(
    seed: int,
    grids: Grids = EDIT,
    *,
    batch: int = 1,
    layers: int = LAYERS,
    experts: int = EXPERTS,
    top_k: int = 1,
    lean: Sequence[float] = (),
) -> RoutingTrace:
    """Random scores; `lean` is added to the logits of the experts."""
    tokens = sum(frames * height * width for frames, height, width in grids)
    logits = torch.randn(layers, batch, tokens, experts, generator=torch.Generator().manual_seed(seed))
    scores = (logits + torch.tensor([*lean, *[0.0] * (experts - len(lean))])).softmax(dim=-1)
    return RoutingTrace(scores, scores.topk(top_k).indices, grids)


def traces(seed: int, grids: Grids = EDIT, **options: Any) -> list[RoutingTrace]:
    return [trace(100 * seed + step, grids, **options) for step in range(STEPS)]


def shown(seed: int, *, sources: int = 1, mask: bool = True) -> Shown:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 255, (sources + 1, 16, 16, 3), dtype=np.uint8)
    inside = np.zeros((16, 16), dtype=bool)
    inside[:8, :8] = True
    return Shown(pictures[0], tuple(pictures[1:]), mask=inside if mask else None)


def facts(number: int, task: str | None, **changes: Any) -> Facts:
    given = {"instruction": f"instruction {number}", "seed": number, "image": f"picture {number}", "task": task}
    return Facts(**(given | changes))


Make = Callable[..., Recording]
