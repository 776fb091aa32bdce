"""Switching an expert off, or forcing it, while a block of code runs: what an expert does is seen by changing it.

Paper 4.5 reads the experts' work off heat maps. But routing statistics do not predict what an expert is for (arXiv
2606.10703): a heat map says where tokens go, this says what changes when they cannot, or must.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from tagmoe.errors import UsageError
from tagmoe.model.moe import MoE

Mode = Literal["off", "forced"]


@dataclass(frozen=True)
class Intervention:
    """A change of routing: `expert` (from 0) "off" or "forced" in mixture layer `layer` (from 0; None: in every one).

    off: its score becomes 0 before top-k; the others stay as they are, not renormalised, so a token goes to its next
    best expert with that one's own score. forced: it changes places with the token's best score, so that every token
    chooses it with the weight that the token gave to its first choice: only who computes changes, not how much. The
    rest of top-k is chosen from the other scores as ever.
    """

    mode: Mode
    expert: int
    layer: int | None = None


@contextmanager
def intervene(transformer: nn.Module, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Apply the interventions, in their order, to every forward inside the block; nothing is left behind after it.

    Weights are untouched. Routing that is returned meanwhile shows the changed scores. Raises UsageError for a model
    without mixture layers, a layer, expert or mode it does not have, and where the change would not be seen (a step
    cache that skips blocks, compiled blocks).
    """
    layers = [module for module in transformer.modules() if isinstance(module, MoE)]
    _check(transformer, layers, interventions)
    handles = []
    try:
        for one in interventions:
            for layer in layers if one.layer is None else [layers[one.layer]]:
                hook = partial(_CHANGES[one.mode], one.expert)
                handles.append(layer.gate.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _off(expert: int, _gate: nn.Module, _inputs: Any, scores_TN: torch.Tensor) -> torch.Tensor:
    changed = scores_TN.clone()
    changed[:, expert] = 0.0
    return changed


def _forced(expert: int, _gate: nn.Module, _inputs: Any, scores_TN: torch.Tensor) -> torch.Tensor:
    best_T1, first_T1 = scores_TN.max(dim=-1, keepdim=True)
    own_T1 = scores_TN[:, expert, None]
    # Of equal scores top-k takes the first: the smallest step above makes this expert the best in any case.
    best_T1 = torch.where(first_T1 == expert, best_T1, torch.nextafter(best_T1, torch.full_like(best_T1, 2.0)))
    changed = scores_TN.scatter(1, first_T1, own_T1)
    changed[:, expert] = best_T1[:, 0]
    return changed


_CHANGES = {"off": _off, "forced": _forced}


def _check(transformer: nn.Module, layers: list[MoE], interventions: Sequence[Intervention]) -> None:
    if not layers:
        raise UsageError("This model has no mixture layers, so there is no expert to switch; use a mixture model.")
    for one in interventions:
        if one.mode not in _CHANGES:
            raise UsageError(f"The intervention's mode is {one.mode!r}; give one of {', '.join(_CHANGES)}.")
        if one.layer is not None and not 0 <= one.layer < len(layers):
            raise UsageError(f"Mixture layer {one.layer} does not exist; this model has layers 0 to {len(layers) - 1}.")
        experts = len(layers[one.layer or 0].experts)
        if not 0 <= one.expert < experts:
            raise UsageError(f"Expert {one.expert} does not exist; this model has experts 0 to {experts - 1}.")
    if getattr(transformer, "is_cache_enabled", False):
        raise UsageError("A step cache skips blocks, so a switched expert would not show; call disable_cache() first.")
    compiled = ("_compiled_call_impl", "_orig_mod")
    if any(getattr(module, name, None) is not None for module in transformer.modules() for name in compiled):
        raise UsageError("Compiled blocks do not see a switched expert; use a model that is not compiled.")
