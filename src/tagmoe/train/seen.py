"""What a stage saw in a step, for whoever watches the run. It is taken after the loss, so no weight depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tagmoe.losses.flow import flow_loss
from tagmoe.model.routing import RouterStats
from tagmoe.train.batch import Batch
from tagmoe.train.facts import Facts
from tagmoe.train.trace import Shapes


@dataclass(frozen=True)
class Seen:
    """One micro-batch of B samples, on the CPU and without a graph.

    kind: of the batch, such as "edit". names: of the samples. flow_B: L_flow of each sample, unweighted. skipped: as of
    `Batch`. probs_LBN, counts_LBN: as of `RouterStats`; None for a dense model.
    """

    kind: str
    names: tuple[str, ...]
    shapes: Shapes
    t_B: Tensor
    tags_BK: Tensor
    flow_B: Tensor
    probs_LBN: Tensor | None
    counts_LBN: Tensor | None
    skipped: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of pictures and text that were computed, padding included."""
        return self.shapes.batch * (self.shapes.image_tokens + self.shapes.text_tokens)


@runtime_checkable
class Watched(Protocol):
    """A stage that tells what it saw. seen: this rank's micro-batches of the last step. mixtures: the names of its
    mixtures in the model, in the order of the layers of `Seen`. experts: in each of them; 0 for a dense model."""

    seen: list[Seen]
    mixtures: tuple[str, ...]
    experts: int


@torch.no_grad()
def seen_of(
    batch: Batch, kind: str, t_B: Tensor, noise_BTC: Tensor, prediction_BTC: Tensor, routing: RouterStats | None
) -> Seen:
    """What a micro-batch and its forward pass show. prediction_BTC: the predicted velocity of the target's tokens.

    A batch whose share is 0 stands in for none: its B is 0.
    """
    size = len(t_B) if batch.share else 0
    names = [f"{case.task} {case.index}" if isinstance(case, Facts) else case for case in batch.samples]
    return Seen(
        kind,
        tuple(names[:size]),
        Shapes(size, batch.grids, batch.text_BSD.shape[1]),
        t_B[:size].cpu(),
        batch.tags_BK[:size].cpu(),
        flow_loss(prediction_BTC, batch.target_BTC, noise_BTC, per_sample=True)[:size].cpu(),
        None if routing is None else routing.mean_probs_LBN.detach()[:, :size].cpu(),
        None if routing is None else routing.counts_LBN.detach()[:, :size].cpu(),
        batch.skipped,
    )
