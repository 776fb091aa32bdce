"""The numbers that a run computes in: bf16 where the processor has bf16 arithmetic, else fp32."""

from __future__ import annotations

import torch


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware; without it they take about ten times as long."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str) -> str:
    """ "fp32" or "bf16": what "auto" means on this processor."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16() else "fp32"


def autocast(precision: str) -> torch.autocast:
    """bf16 autocast for "bf16", nothing for "fp32"."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
