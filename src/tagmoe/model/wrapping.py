"""Look inside the modules that wrap a model: compiled, distributed and checkpointed ones.

A wrapper is called in the model's place. But some wrappers do not show the model's attributes (config, dtype, methods).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Of torch.compile, of (distributed) data parallelism, of fully sharded data parallelism, of activation checkpointing.
WRAPPED = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(module: Any) -> Any:
    """The model that a wrapper holds, through any number of wrappers. Anything else, None too, is given back."""
    for name in WRAPPED:
        inner = getattr(module, "_modules", {}).get(name)
        if inner is not None and len(module._modules) == 1:
            return unwrapped(inner)
    return module


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says; diffusers and accelerate replace `forward` itself."""
    return bool(
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


# torch.compile cannot look into hooks, so it evaluates this once, while it traces.
@torch.compiler.assume_constant_result
def holds_hooks(module: nn.Module) -> bool:
    """Whether the module or a part of it is hooked, for example by offloading or casting."""
    return any(is_hooked(part) for part in module.modules())
