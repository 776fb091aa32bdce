"""The conflict dial of `tagmoe.world.families` on latent tokens, for training and for reading results back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tagmoe.world.families import SIDES, rotation, side_of


def turned(tokens_BTC: Tensor, tasks: Sequence[str], alpha: float) -> Tensor:
    """Canonical latents of targets -> those that the tasks' families want at this alpha. alpha 0 gives them back."""
    return _apply(tokens_BTC, tasks, alpha, inverse=False)


def turned_back(tokens_BTC: Tensor, tasks: Sequence[str], alpha: float) -> Tensor:
    """The inverse of `turned`, to be applied before decoding."""
    return _apply(tokens_BTC, tasks, alpha, inverse=True)


def _apply(tokens_BTC: Tensor, tasks: Sequence[str], alpha: float, *, inverse: bool) -> Tensor:
    if alpha == 0:
        return tokens_BTC
    channels = tokens_BTC.shape[-1]
    all_SCC = torch.from_numpy(np.stack([rotation(side, channels, alpha) for side in range(len(SIDES))]))
    by_sample_BCC = all_SCC.to(tokens_BTC)[[side_of(task) for task in tasks]]
    # Tokens are rows: x -> R x is x R^T here.
    return tokens_BTC @ (by_sample_BCC if inverse else by_sample_BCC.transpose(1, 2))
