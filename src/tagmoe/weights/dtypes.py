"""Float formats of weight files in numpy, which has no bfloat16: bytes to fp32 and back, rounded to nearest even."""

from __future__ import annotations

import numpy as np

FLOATS = ("F64", "F32", "F16", "BF16")
# names on the command line -> names in safetensors
NAMES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
_NATIVE = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def decode(data: bytes, dtype: str) -> np.ndarray:
    """The numbers as fp32 (fp64 stays fp64). The result may be a read-only view of `data`."""
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4")
        wide <<= 16
        return wide.view("<f4")
    values = np.frombuffer(data, _NATIVE[dtype])
    return values if dtype == "F64" else values.astype("<f4", copy=False)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """fp32 or fp64 numbers as bytes of `dtype`; NaN stays NaN, what is too large becomes infinite.

    fp64 goes through fp32 to the 16-bit formats, as in torch.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype not in ("F64", "F32"):
            values = values.astype("<f4", copy=False)
        if dtype == "BF16":
            return _to_bf16(values).tobytes()
        return values.astype(_NATIVE[dtype], copy=False).tobytes()


def _to_bf16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view("<u4")
    # Half of the last kept bit, less one where that bit is even, so that ties go to even.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    narrow = rounded.astype("<u2")
    # Adding could carry the bits of a NaN into infinity or zero.
    nan = np.isnan(values)
    if nan.any():
        narrow[nan] = (bits[nan] >> 16).astype("<u2") | 0x0040
    return narrow
