"""Eq. 3: the aggregated routing signature g of a sample (section 3.3.2), its average expert usage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def routing_signature(mean_probs_LBN: Tensor) -> Tensor:
    """g = 1/(T L) sum_t sum_l S_lt (Eq. 3) from each layer's mean over tokens: signature_BN in fp32, rows sum to 1.

    The paper's t runs over all image tokens. The means may be of other tokens: the setting `loss.routing_tokens`.
    """
    return mean_probs_LBN.float().mean(dim=0)


def layered_signature(mean_probs_LBN: Tensor) -> Tensor:
    """g with every layer's own numbers, in place of their mean: signature_BM in fp32, M = L N. [ours]

    The mean over layers lets layers cancel each other: on TagWorld the task is read from it in 0.68 of cases, and in
    0.83 from the layers side by side.
    """
    return mean_probs_LBN.float().transpose(0, 1).flatten(1)


def hard_probs(mean_probs_LBN: Tensor, counts_LBN: Tensor) -> Tensor:
    """The shares of the chosen experts with the gradient of the mean scores (straight-through), in fp32. [ours]

    Scores can tell tasks apart while every token still chooses the same expert. These shares cannot.
    """
    share_LBN = counts_LBN.float() / counts_LBN.float().sum(dim=-1, keepdim=True).clamp_min(1)
    probs_LBN = mean_probs_LBN.float()
    return share_LBN.detach() + probs_LBN - probs_LBN.detach()


def routing_signature_from_scores(scores_LBTN: Tensor, counted_L: Sequence[int | None] = ()) -> Tensor:
    """g as Eq. 3 writes it, from the scores of every token: signature_BN in fp32.

    counted_L: how many tokens, the first, count in each layer, None for all; every layer weighs the same.
    """
    if not any(counted_L):
        return scores_LBTN.float().mean(dim=0).mean(dim=1)
    means = [scores_BTN[:, :n].float().mean(dim=1) for scores_BTN, n in zip(scores_LBTN, counted_L, strict=True)]
    return torch.stack(means).mean(dim=0)
