"""The decisions of the gates, which the model returns as data beside its output (paper 4.3, 4.5).

Two sizes: `RouterStats` (a few hundred bytes, all that the losses of Eq. 3-5 need) and `RoutingTrace` (every token,
for figures). Both are pytrees of tensors, so checkpointing, DDP and FSDP see their gradients. Their fields are never
left out. They have defaults because hooks of accelerate make an output anew from one dict, which `BaseOutput` then
takes apart only where the other fields are None.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from diffusers.utils import BaseOutput

from tagmoe.errors import UsageError

Grid = tuple[int, int, int]
ROUTING_TOKENS = ("all", "live", "target")
"""Which image tokens count in g (Eq. 3) and in L_lbl. all: every one, the paper's reading. live: every one whose
output is used, which leaves out the reference tokens of the last mixture. target: those of the target alone."""


def token_grids(img_shapes: list[Any]) -> tuple[Grid, ...]:
    """The (frames, height, width) of every image of a sample, target first, from diffusers' `img_shapes`.

    All samples are taken to have the grids of the first, as in diffusers' rotary embedding.
    """
    first = img_shapes[0]
    grids = first if isinstance(first[0], (list, tuple)) else [first]
    return tuple((int(frames), int(height), int(width)) for frames, height, width in grids)


def counted_by_layer(routing_tokens: str | None, grids: tuple[Grid, ...], layers: int) -> tuple[int | None, ...]:
    """How many tokens of a sample, its first ones, count in each mixture layer (t of Eq. 3); None: all of them.

    Under "live" and "target" too every layer weighs the same in g, however many of its tokens count.
    """
    target = prod(grids[0]) if len(grids) > 1 else None
    if routing_tokens in (None, "all"):
        return (None,) * layers
    return (*(target if routing_tokens == "target" else None for _ in range(layers - 1)), target)


def router_stats(scores_BTN: torch.Tensor, expert_ids_BTA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per sample and expert the mean softmax score (with gradient) and the number of assignments: two (B, N) fp32."""
    with torch.no_grad():
        ids = expert_ids_BTA.flatten(1)
        counts_BN = torch.zeros(ids.shape[0], scores_BTN.shape[-1], device=ids.device)
        counts_BN.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts_BN.dtype))
    return scores_BTN.mean(dim=1), counts_BN


@dataclass
class RouterStats(BaseOutput):
    """Per-sample router statistics of all mixture layers, the input of Eq. (3) and of the balance loss.

    mean_probs_LBN: mean full softmax score over a sample's image tokens, fp32, with gradient.
    counts_LBN: assignments after top-k, fp32 whole numbers, without gradient; they sum to T * A.
    Both are of the tokens that count (`ROUTING_TOKENS`), by default all.
    """

    mean_probs_LBN: torch.Tensor
    counts_LBN: torch.Tensor = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        layers, batch, experts = self.counts_LBN.shape
        return f"RouterStats(layers={layers}, batch={batch}, experts={experts})"


@dataclass
class RoutingTrace(BaseOutput):
    """Every routing decision of one forward (paper Fig. 6).

    scores_LBTN: full softmax scores before top-k, fp32. expert_ids_LBTA: chosen experts, best first, int64.
    grids: (frames, height, width) of each image in token order: the target first, then the references.
    routing_tokens: which of the tokens count in g for this model (`ROUTING_TOKENS`, None: all); the trace holds all.
    """

    scores_LBTN: torch.Tensor
    expert_ids_LBTA: torch.Tensor = None  # type: ignore[assignment]
    grids: tuple[Grid, ...] = None  # type: ignore[assignment]
    routing_tokens: str | None = None

    def __repr__(self) -> str:
        layers, batch, tokens, experts = self.scores_LBTN.shape
        top_k = self.expert_ids_LBTA.shape[-1]
        return (
            f"RoutingTrace(layers={layers}, batch={batch}, tokens={tokens}, experts={experts}, top_k={top_k}, "
            f"grids={self.grids})"
        )

    def stats(self) -> RouterStats:
        """The statistics that `return_routing="stats"` would have given."""
        counted_L = counted_by_layer(self.routing_tokens, self.grids, len(self.scores_LBTN))
        per_layer = [
            router_stats(scores_BTN[:, :counted], ids_BTA[:, :counted])
            for scores_BTN, ids_BTA, counted in zip(self.scores_LBTN, self.expert_ids_LBTA, counted_L, strict=True)
        ]
        return RouterStats(
            mean_probs_LBN=torch.stack([mean for mean, _ in per_layer]),
            counts_LBN=torch.stack([counts for _, counts in per_layer]),
        )

    def image(self, index: int) -> torch.Tensor:
        """Scores of image `index` (0 target, 1.. references) as pictures: (L, B, h, w, N); frames stack downwards."""
        span = self._span(index)
        frames, height, width = self.grids[index]
        layers, batch, _, experts = self.scores_LBTN.shape
        return self.scores_LBTN[:, :, span].reshape(layers, batch, frames * height, width, experts)

    def utilisation(self, image: int | None = None) -> torch.Tensor:
        """Share of the tokens (of one image, or of all) whose first choice is each expert: (L, B, N), sums to 1."""
        first_LBT = self.expert_ids_LBTA[..., 0]
        if image is not None:
            first_LBT = first_LBT[:, :, self._span(image)]
        return torch.nn.functional.one_hot(first_LBT, self.scores_LBTN.shape[-1]).float().mean(dim=2)

    def _span(self, index: int) -> slice:
        if not 0 <= index < len(self.grids):
            raise UsageError(f"Image {index} is not in this routing trace; it has images 0 to {len(self.grids) - 1}.")
        start = sum(prod(grid) for grid in self.grids[:index])
        return slice(start, start + prod(self.grids[index]))
