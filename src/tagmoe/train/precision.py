"""The precision of a run: bf16 where the device has bf16 arithmetic, else fp32."""

from __future__ import annotations

import torch

from tagmoe.model.cpu.bf16 import has_bf16


def resolve_precision(precision: str, device: str = "cpu") -> str:
    """ "fp32" or "bf16": what "auto" means on a device of this type ("cpu": this processor, "cuda": bf16)."""
    if precision != "auto":
        return precision
    return "bf16" if device == "cuda" or has_bf16() else "fp32"


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    """bf16 autocast for "bf16", nothing for "fp32", on a device of this type."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
