"""Eq. 5: the overall training objective (section 3.3.4), and the modules that only training needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from tagmoe.errors import ConfigError
from tagmoe.losses.alignment import PredictionHead, alignment_loss, contrastive_alignment_loss
from tagmoe.losses.balance import balance_loss
from tagmoe.losses.flow import flow_loss
from tagmoe.losses.semantics import TagEmbedding, TagEmbeddingKind
from tagmoe.losses.signature import hard_probs, layered_signature, routing_signature

AlignTarget = Literal["grad", "stop-grad"]
AlignLoss = Literal["cosine", "contrastive"]
Signature = Literal["mean", "by-layer"]


@dataclass(frozen=True)
class LossTerms:
    """The terms of Eq. 5. `total` carries the gradient; `flow`, `balance` and `alignment` are without their lambdas."""

    total: Tensor
    flow: Tensor
    balance: Tensor
    alignment: Tensor


class Objective(nn.Module):
    """L_total = L_flow + lambda_lbl L_lbl + lambda_align L_align (Eq. 5, section 3.3.4).

    Owns W_tag and H_pred, which are trained with the model and dropped at inference. The paper prints no lambdas. 0.01
    for L_lbl is the release's; 0.1 for L_align is our choice [ours].
    align_loss, signature, hard_signature: variants of Eq. 4 and Eq. 3 [ours], the paper's by default. num_layers: L,
    for signature "by-layer" alone.
    Raises ConfigError for an unknown align_target, align_loss or signature, a head that has neither two nor three
    layers, or a negative lambda.
    """

    def __init__(
        self,
        num_experts: int,
        dim: int,
        *,
        lambda_lbl: float = 0.01,
        lambda_align: float = 0.1,
        tag_embedding: TagEmbeddingKind = "learned",
        align_target: AlignTarget = "grad",
        head_hidden: int = 256,
        head_layers: Literal[2, 3] = 2,
        align_loss: AlignLoss = "cosine",
        signature: Signature = "mean",
        hard_signature: bool = False,
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        if align_target not in ("grad", "stop-grad"):
            raise ConfigError(f"align_target is {align_target!r}: it must be 'grad' or 'stop-grad'.")
        if head_layers not in (2, 3):
            raise ConfigError(f"head_layers is {head_layers}: it must be 2 (the paper) or 3 (the release).")
        if min(lambda_lbl, lambda_align) < 0:
            raise ConfigError(f"lambda_lbl is {lambda_lbl} and lambda_align {lambda_align}: neither may be negative.")
        if align_loss not in get_args(AlignLoss) or signature not in get_args(Signature):
            raise ConfigError(
                f"align_loss is {align_loss!r} and signature {signature!r}: they must be one of "
                f"{', '.join(get_args(AlignLoss))}, and one of {', '.join(get_args(Signature))}."
            )
        self.contrastive = align_loss == "contrastive"
        self.by_layer = signature == "by-layer"
        self.hard_signature = hard_signature
        self.lambda_lbl = lambda_lbl
        self.lambda_align = lambda_align
        self.target_grad = align_target == "grad"
        # The names of the release's checkpoint: tag_embedding.weight, router_head.net.{0,2,4}.
        self.tag_embedding = TagEmbedding(dim, kind=tag_embedding)
        width = num_experts * num_layers if self.by_layer else num_experts
        self.router_head = PredictionHead(width, dim, hidden=head_hidden, num_layers=head_layers)

    def forward(
        self,
        prediction: Tensor,
        x0: Tensor,
        noise: Tensor,
        tags_BK: Tensor,
        mean_probs_LBN: Tensor | None = None,
        counts_LBN: Tensor | None = None,
        global_counts_LN: Tensor | None = None,
        weight_BT: Tensor | None = None,
    ) -> LossTerms:
        """The terms of Eq. 5 for one micro-batch. Without router statistics (a dense model) only L_flow remains.

        prediction, x0, noise: (B, ...). tags_BK: zeros and ones. global_counts_LN: see `balance_loss`.
        weight_BT: see `flow_loss`. A term whose lambda is 0 is not computed and reads 0.
        Raises ValueError for one router statistic alone.
        """
        if (mean_probs_LBN is None) != (counts_LBN is None):
            raise ValueError("mean_probs_LBN and counts_LBN describe the same routing: give both, or neither if dense.")
        flow = flow_loss(prediction, x0, noise, weight_BT=weight_BT)
        total, balance, alignment = flow, flow.new_zeros(()), flow.new_zeros(())
        if mean_probs_LBN is not None and counts_LBN is not None:
            if self.lambda_lbl > 0:
                balance = balance_loss(mean_probs_LBN, counts_LBN, global_counts_LN=global_counts_LN)
                total = total + self.lambda_lbl * balance
            if self.lambda_align > 0:
                alignment = self._alignment(mean_probs_LBN, counts_LBN, tags_BK)
                total = total + self.lambda_align * alignment
        return LossTerms(total, flow, balance, alignment)

    def _alignment(self, mean_probs_LBN: Tensor, counts_LBN: Tensor, tags_BK: Tensor) -> Tensor:
        probs_LBN = hard_probs(mean_probs_LBN, counts_LBN) if self.hard_signature else mean_probs_LBN
        signature = layered_signature(probs_LBN) if self.by_layer else routing_signature(probs_LBN)
        predicted_BD, semantic_BD = self.router_head(signature), self.tag_embedding(tags_BK)
        if self.contrastive:
            return contrastive_alignment_loss(predicted_BD, semantic_BD, tags_BK, target_grad=self.target_grad)
        return alignment_loss(predicted_BD, semantic_BD, target_grad=self.target_grad)
