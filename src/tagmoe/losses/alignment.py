"""Eq. 4: predictive alignment regularisation (section 3.3.3). The routing signature g must predict the semantics s."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class PredictionHead(nn.Module):
    """H_pred of section 3.3.3: s_hat = H_pred(g), a two-layer MLP in the paper and a three-layer one in the release.

    Computes in fp32 also under autocast, because the differences of g between tasks are too small for bf16.
    """

    def __init__(self, num_experts: int, dim: int, *, hidden: int = 256, num_layers: Literal[2, 3] = 2) -> None:
        super().__init__()
        middle = [nn.Linear(hidden, hidden), nn.GELU()] if num_layers == 3 else []
        # One Sequential called `net`, so that the keys are the release's: net.0, net.2 and net.4.
        self.net = nn.Sequential(nn.Linear(num_experts, hidden), nn.GELU(), *middle, nn.Linear(hidden, dim))

    def forward(self, signature_BN: Tensor) -> Tensor:
        """s_hat = H_pred(g): predicted_BD in fp32."""
        with torch.autocast(signature_BN.device.type, enabled=False):
            predicted: Tensor = self.net(signature_BN.float())
        return predicted


def contrastive_alignment_loss(
    predicted_BD: Tensor, semantic_BD: Tensor, tags_BK: Tensor, *, target_grad: bool = True, temperature: float = 0.1
) -> Tensor:
    """InfoNCE in place of Eq. 4: s_hat must be nearer to its own s than to those of the batch's other tasks. [ours]

    Every set of tags counts once, however many samples have it. 1 - cos has a minimum at one constant answer when
    W_tag is learned; here a constant answer costs the log of the number of sets. In fp32. A batch of one set gives 0.
    """
    target_BD = semantic_BD.float() if target_grad else semantic_BD.detach().float()
    sets_UK, own_B = torch.unique(tags_BK, dim=0, return_inverse=True)
    first_U = torch.stack([(own_B == number).nonzero()[0, 0] for number in range(len(sets_UK))])
    with torch.autocast(predicted_BD.device.type, enabled=False):
        predicted = functional.normalize(predicted_BD.float(), dim=-1)
        target = functional.normalize(target_BD[first_U], dim=-1)
        return functional.cross_entropy(predicted @ target.T / temperature, own_B)


def alignment_loss(predicted_BD: Tensor, semantic_BD: Tensor, *, target_grad: bool = True) -> Tensor:
    """L_align = mean over samples of 1 - cos(s_hat, s) (Eq. 4), in fp32 and in [0, 2].

    target_grad=False stops the gradient into s, so that only the routing moves. A sample without tags has s = 0; its
    loss is 1, without gradient.
    """
    target_BD = semantic_BD.float() if target_grad else semantic_BD.detach().float()
    with torch.autocast(predicted_BD.device.type, enabled=False):
        return (1 - functional.cosine_similarity(predicted_BD.float(), target_BD, dim=-1)).mean()
