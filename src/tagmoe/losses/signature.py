"""Eq. 3: the aggregated routing signature g of a sample (section 3.3.2), its average expert usage."""

from __future__ import annotations

from torch import Tensor


def routing_signature(mean_probs_LBN: Tensor) -> Tensor:
    """g = 1/(T L) sum_t sum_l S_lt (Eq. 3) from each layer's mean over tokens: signature_BN in fp32, rows sum to 1."""
    return mean_probs_LBN.float().mean(dim=0)


def routing_signature_from_scores(scores_LBTN: Tensor) -> Tensor:
    """g as Eq. 3 writes it, from the scores of every token: signature_BN in fp32."""
    return scores_LBTN.float().mean(dim=0).mean(dim=1)
