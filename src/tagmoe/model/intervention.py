"""Switch an expert off, or force it, while a block of code runs, to measure what the expert does.

Paper 4.5 infers the experts' roles from heat maps. But routing statistics do not predict what an expert is for (arXiv
2606.10703). A heat map shows where tokens go. An intervention shows what changes when they cannot go there, or must.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """A change of routing: `expert` (from 0) is "off" or "forced" in mixture layer `layer` (from 0; None: in all).

    off: the expert's score becomes 0 before top-k. The other scores are not renormalised, so a token goes to its next
    best expert with that expert's own score.

    forced: the expert's score and the token's best score change places. Every token then chooses the expert, with the
    weight of its former first choice. So another expert computes, but the weight of the output stays. The rest of top-k
    is chosen from the other scores as usual.
    """

    mode: Mode
    expert: int
    layer: int | None = None


@contextmanager
def intervene(transformer: nn.Module, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Apply the interventions, in their order, to every forward inside the block; nothing is left behind after it.

    The weights stay as they are. Routing returned inside the block shows the changed scores. Raises UsageError for a
    model without mixture layers, and for a layer, expert or mode that does not exist. Raises it also where a change
    would have no effect: in compiled blocks, and with a step cache, which skips blocks.
    """
    layers = [module for module in transformer.modules() if isinstance(module, MoE)]
    _check(transformer, layers, interventions)
    with ExitStack() as hooks:
        for one in interventions:
            for layer in layers if one.layer is None else [layers[one.layer]]:
                change = partial(_CHANGES[one.mode], one.expert)
                hooks.enter_context(layer.gate.register_forward_hook(change))
        yield


@contextmanager
def given_experts(transformer: nn.Module, expert_B: torch.Tensor) -> Iterator[None]:
    """Give each sample of a batch one expert, in every layer and for all its tokens, with the weight 1.

    expert_B: int64, one expert a sample. It is the control for what a gate could gain by knowing the task. The gates
    get no gradient. Raises UsageError as `intervene` does.
    """
    layers = [module for module in transformer.modules() if isinstance(module, MoE)]
    _check(transformer, layers, [Intervention("forced", int(expert)) for expert in expert_B.unique()])

    def given(_gate: nn.Module, _inputs: Any, scores_TN: torch.Tensor) -> torch.Tensor:
        ids_T = expert_B.to(scores_TN.device).repeat_interleave(len(scores_TN) // len(expert_B))
        return torch.nn.functional.one_hot(ids_T, scores_TN.shape[-1]).to(scores_TN.dtype)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.gate.register_forward_hook(given))
        yield


def _off(expert: int, _gate: nn.Module, _inputs: Any, scores_TN: torch.Tensor) -> torch.Tensor:
    changed = scores_TN.clone()
    changed[:, expert] = 0.0
    return changed


def _forced(expert: int, _gate: nn.Module, _inputs: Any, scores_TN: torch.Tensor) -> torch.Tensor:
    best_T1, first_T1 = scores_TN.max(dim=-1, keepdim=True)
    own_T1 = scores_TN[:, expert, None]
    # Top-k breaks ties by index: add one ulp, so that this expert also wins against a lower index.
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
