"""The f of L_lbl (section 3.3.4) over a whole step, known before the step begins.

L_lbl must not ask each micro-batch to be balanced by itself, and its f is needed before the first backward pass. The
load of the step that runs is known only after its last forward pass. So f is the load of the last step of the same
kind (text-to-image steps alternate with editing steps): global, the same for every split of a batch into micro-batches
and ranks, and free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tagmoe.losses.balance import expert_load


class ExpertLoad:
    """Load of every expert (L, N) by kind of step. Before the first step of a kind the load is uniform, which makes
    L_lbl 1 with no gradient."""

    def __init__(self, layers: int, experts: int) -> None:
        self._uniform_LN = torch.ones(layers, experts)
        self._last: dict[str, Tensor] = {}
        self._running_LN = torch.zeros(layers, experts)

    def of(self, kind: str) -> Tensor:
        """The load (L, N) of the last finished step of this kind."""
        return self._last.get(kind, self._uniform_LN)

    def add(self, counts_LBN: Tensor) -> None:
        """Count a micro-batch of the running step: tokens that each expert got, by layer and sample."""
        self._running_LN = self._running_LN + expert_load(counts_LBN)

    def finish(self, kind: str) -> None:
        """End the running step, which was of this kind."""
        self._last[kind] = self._running_LN
        self._running_LN = torch.zeros_like(self._uniform_LN)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON values."""
        return {kind: load_LN.tolist() for kind, load_LN in self._last.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self._last = {kind: torch.tensor(load_LN) for kind, load_LN in state.items()}
