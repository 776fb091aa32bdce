"""Activation checkpointing of a transformer's blocks: backward computes a block again, but not its routing decision.

A block that is computed again rounds otherwise where its input has other neighbours or its kernels are not
deterministic. A token whose best two experts are nearly tied would then go to another expert in backward than in
forward. So the choice of experts is kept from the forward pass: 12 bytes for each token and mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

ROUTING = (torch.ops.aten.max.dim, torch.ops.aten.topk.default)
"""The operators by which `tagmoe.model.moe.choose` takes the best experts."""


def _keep_routing(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in ROUTING else CheckpointPolicy.PREFER_RECOMPUTE


def recomputed(block: Callable[..., Any], *inputs: Any) -> Any:
    """block(*inputs), keeping for backward only the inputs and the choice of experts."""
    contexts = partial(create_selective_checkpoint_contexts, _keep_routing)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


def recompute_blocks(transformer: Any) -> None:
    """Let every block of a diffusers transformer be computed again in backward. Its gradients stay the same."""
    transformer.enable_gradient_checkpointing(recomputed)
