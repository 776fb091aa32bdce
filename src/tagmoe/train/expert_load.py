"""The load f of L_lbl (section 3.3.4) over a whole step, known before the step begins.

L_lbl must balance the whole batch, not each micro-batch, and it needs f before the first backward pass. But the load
of the running step is known only after its last forward pass. So f is the load of the last step of the same kind
(text-to-image steps alternate with editing steps). It is global, does not depend on how a batch is split into
micro-batches and ranks, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tagmoe.losses.balance import expert_load
from tagmoe.train.ranks import ALONE, Ranks


class ExpertLoad:
    """Load of every expert (L, N) by kind of step. Before the first step of a kind the load is uniform. Then L_lbl is 1
    and has no gradient. ranks: those over which a step's load is summed."""

    def __init__(self, layers: int, experts: int, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._uniform_LN = torch.ones(layers, experts)
        self._last: dict[str, Tensor] = {}
        self._running_LN = torch.zeros(layers, experts)

    def of(self, kind: str) -> Tensor:
        """The load (L, N) of the last finished step of this kind."""
        return self._last.get(kind, self._uniform_LN)

    def add(self, counts_LBN: Tensor) -> None:
        """Count a micro-batch of the running step. counts_LBN: tokens of each expert, by layer and sample."""
        self._running_LN = self._running_LN + expert_load(counts_LBN)

    def finish(self, kind: str) -> None:
        """End the running step, which was of this kind. All ranks must do so together."""
        self._last[kind] = self._ranks.sum(self._running_LN)
        self._running_LN = torch.zeros_like(self._uniform_LN)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON values."""
        return {kind: load_LN.tolist() for kind, load_LN in self._last.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self._last = {kind: torch.tensor(load_LN) for kind, load_LN in state.items()}
