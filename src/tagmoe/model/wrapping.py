"""Look inside the modules that wrap a model: compiled, distributed and checkpointed ones.

A wrapper is called in the model's place. But some wrappers do not show the model's attributes (config, dtype, methods).
"""

from __future__ import annotations

from typing import Any

# Of torch.compile, of (distributed) data parallelism, of fully sharded data parallelism, of activation checkpointing.
WRAPPED = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(module: Any) -> Any:
    """The model that a wrapper holds, through any number of wrappers. Anything else, None too, is given back."""
    for name in WRAPPED:
        inner = getattr(module, "_modules", {}).get(name)
        if inner is not None and len(module._modules) == 1:
            return unwrapped(inner)
    return module
