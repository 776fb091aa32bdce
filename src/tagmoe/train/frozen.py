"""Linear layers that do not train, kept in fewer bytes and read in the dtype of their input.

bf16 is kept as it is, fp8 (e4m3) with one scale a layer, nf4 in blocks by bitsandbytes. A backward pass through such a
layer needs its weight again. It is then read anew from what is kept, so no copy in full precision waits for it.
All of it has been tried on a CPU only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmoe.extras import require
from tagmoe.model.gate import Float32Linear
from tagmoe.pipeline.memory.placing import without_packed_kernel
from tagmoe.pipeline.memory.sizes import UNQUANTISED

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = torch.finfo(FP8).max


class _ReadLinear(torch.autograd.Function):
    """x W^T of a kept weight. Only what is kept is saved for backward, not W in the input's dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(kept, scale)
        return F.linear(x, _read(kept, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        kept, scale = ctx.saved_tensors
        return gradient @ _read(kept, scale, gradient.dtype), None, None


def _read(kept: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    if kept.dtype == FP8:
        return (kept.float() * scale).to(dtype)
    return kept.to(dtype)


class StoredLinear(nn.Linear):
    """A frozen linear layer whose weight is kept in bf16 or fp8. weight: as kept. scale (): what fp8 is multiplied by.

    In autocast it computes in autocast's dtype, as any other linear layer; else in that of its input.
    """

    scale: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        # On the meta device, so that no weight is made beside the one that is kept.
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        weight = linear.weight.detach()
        # That of a layer without numbers, which are read later, is known already.
        scale = torch.ones((), device="cpu" if weight.is_meta else weight.device)
        if dtype == FP8:
            # A weight of zeros has no scale.
            scale = (weight.float().abs().max() / LARGEST_FP8).clamp_min(torch.finfo(torch.float32).tiny)
            weight = weight.float() / scale
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().bfloat16(), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            y: Tensor = _ReadLinear.apply(x.to(dtype), self.weight, self.scale)
            return y if self.bias is None else y + self.bias.to(dtype)

    def restored(self, dtype: torch.dtype) -> nn.Linear:
        """The plain layer of this dtype that computes the same."""
        return _plain(self, _read(self.weight, self.scale, dtype), dtype)


def keep_frozen(transformer: nn.Module, dtype: str) -> None:
    """Keep every frozen linear layer of the transformer as `dtype` says, in place: fp32, bf16, fp8 or nf4.

    Layers that train, gates and the first and last layers (`UNQUANTISED`) stay as they are, and so do norms. Raises
    MissingError for nf4 without bitsandbytes.
    """
    if dtype == "fp32":
        return
    if dtype == "nf4":
        require("memory", purpose="The setting 'frozen_dtype: nf4'")
    for parent, name, linear in list(frozen_linears(transformer)):
        kept = _in_4_bits(linear) if dtype == "nf4" else StoredLinear(linear, FP8 if dtype == "fp8" else torch.bfloat16)
        setattr(parent, name, kept)
    if dtype == "nf4":
        without_packed_kernel(transformer)


def frozen_linears(transformer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name in it, layer) of every linear layer that `keep_frozen` keeps in fewer bytes."""
    for path, parent in transformer.named_modules():
        for name, layer in parent.named_children():
            if not isinstance(layer, nn.Linear) or isinstance(layer, Float32Linear) or layer.weight.requires_grad:
                continue
            if not set(f"{path}.{name}".split(".")).intersection(UNQUANTISED["transformer"]):
                yield parent, name, layer


def restore_frozen(transformer: nn.Module, dtype: torch.dtype) -> None:
    """The inverse of `keep_frozen`: plain layers of this dtype, whose numbers are those that were kept."""
    for parent in list(transformer.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, StoredLinear):
                setattr(parent, name, layer.restored(dtype))
            elif is_in_4_bits(layer):
                setattr(parent, name, _out_of_4_bits(layer, dtype))


def is_kept(layer: nn.Module) -> bool:
    """Whether `keep_frozen` made this layer."""
    return isinstance(layer, StoredLinear) or is_in_4_bits(layer)


def is_in_4_bits(layer: nn.Module) -> bool:
    """Whether this is a layer of bitsandbytes. Asked without importing it."""
    return type(layer).__name__ == "Linear4bit"


def _in_4_bits(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    # As `tagmoe.pipeline.memory` does: the scales themselves are not quantised.
    kind: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
    layer = Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None, **kind)
    layer.weight = Params4bit(linear.weight.detach(), requires_grad=False, module=layer, **kind)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().bfloat16(), requires_grad=False)
    # The weight is quantised by the move.
    moved: nn.Module = layer.to(linear.weight.device)
    return moved


def _out_of_4_bits(layer: Any, dtype: torch.dtype) -> nn.Linear:
    from bitsandbytes.functional import dequantize_4bit

    return _plain(layer, dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype), dtype)


def _plain(layer: nn.Linear, weight: Tensor, dtype: torch.dtype) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    return plain


def kept_bytes(shape: tuple[int, ...] | torch.Size, dtype: str) -> int:
    """Bytes of a frozen weight of this shape. fp8: its scale too. nf4: an fp32 scale for 64 values, and a table of 16.

    bitsandbytes calls the table `code`; every layer holds its own.
    """
    from tagmoe.pipeline.memory.sizes import SCALE_BYTES, VALUES_PER_SCALE

    count = math.prod(shape)
    if dtype == "nf4":
        return math.ceil(count / 2) + SCALE_BYTES * math.ceil(count / VALUES_PER_SCALE) + 16 * SCALE_BYTES
    return {"fp32": 4 * count, "bf16": 2 * count + SCALE_BYTES, "fp8": count + SCALE_BYTES}[dtype]
