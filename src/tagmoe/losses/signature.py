"""Eq. 3: the aggregated routing signature g of a sample (section 3.3.2), its average expert usage."""

from __future__ import annotations

from torch import Tensor


def routing_signature(mean_probs_LBN: Tensor) -> Tensor:
    """g = 1/(T L) sum_t sum_l S_lt (Eq. 3) from each layer's mean over tokens: signature_BN in fp32, rows sum to 1."""
    return mean_probs_LBN.float().mean(dim=0)


def routing_signature_from_scores(scores_LBTN: Tensor, token_mask_BT: Tensor | None = None) -> Tensor:
    """g as Eq. 3 writes it, from the scores of every token: signature_BN in fp32.

    token_mask_BT is true for tokens that count; every sample needs one. Without it all tokens count.
    """
    token_BTN = scores_LBTN.float().mean(dim=0)
    if token_mask_BT is None:
        return token_BTN.mean(dim=1)
    weight_BT1 = token_mask_BT.to(token_BTN.dtype).unsqueeze(-1)
    return (token_BTN * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1)
