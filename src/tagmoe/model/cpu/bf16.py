"""Whether this processor computes in bf16."""

from __future__ import annotations

import torch


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware; without it they take about ten times as long."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
