"""L_lbl, the load-balancing loss of Eq. 5 (section 3.3.4). The paper calls it standard; this is Switch's, by layer.

The products f_i P_i are taken within each layer and then averaged over layers. Averaging f and P over layers first
would hide a collapse: layers that each use one expert, but different ones, would look balanced.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expert_load(counts_LBN: Tensor) -> Tensor:
    """The load of each expert, counted in samples: load_LN, which may be summed over micro-batches and ranks.

    counts_LBN are token counts. Every sample weighs 1 whatever its size, so a layer's loads sum to the samples seen.
    """
    counts = counts_LBN.detach().float()
    return (counts / counts.sum(dim=-1, keepdim=True).clamp_min(1)).sum(dim=1)


def balance_loss(mean_probs_LBN: Tensor, counts_LBN: Tensor, *, global_counts_LN: Tensor | None = None) -> Tensor:
    """L_lbl = mean over layers of N sum_i f_i P_i (Eq. 5): 1 at uniform use, N when one expert takes all. In fp32.

    mean_probs_LBN: softmax probabilities averaged over each sample's image tokens; P_i is their mean over samples.
    counts_LBN: tokens that each expert got; f_i, their share, carries no gradient. Both are of the tokens that count:
    all of the sample's by default, or those of the setting `loss.routing_tokens`.
    global_counts_LN: replaces the counts by sums over all ranks and micro-batches (of `expert_load`, or of raw counts
    if all samples are of one size). The loss is linear in P, so its mean over micro-batches equals the large batch's.
    """
    load_LN = expert_load(counts_LBN) if global_counts_LN is None else global_counts_LN.detach().float()
    share_LN = load_LN / load_LN.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    probs_LN = mean_probs_LBN.float().mean(dim=1)
    return (share_LN * probs_LN).sum(dim=-1).mean() * probs_LN.shape[-1]
