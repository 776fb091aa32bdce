"""16-bit floats without torch round as torch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tagmoe.weights.dtypes import FLOATS, NAMES, decode, encode

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def raw(value: torch.Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).numpy().tobytes()


def numbers() -> np.ndarray:
    """Random fp32 bit patterns, ties and their neighbours, subnormals, the ends of each range, infinities."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 2**32, 200_000, dtype=np.uint32)
    high = generator.integers(0, 2**16, 20_000, dtype=np.uint32) << 16
    ties = np.concatenate([high + low for low in (0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    halves = generator.standard_normal(20_000, dtype=np.float32).view(np.uint32) & 0xFFFFE000 | 0x1000
    subnormal = np.arange(0, 2**23, 997, dtype=np.uint32)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520, 6e-8, 2.98e-8, 2.9803e-8, 3.4e38, 3.3961e38, 1.17549e-38],
        np.float32,
    )
    values = np.concatenate([patterns, ties, halves, subnormal]).view(np.float32)
    return np.concatenate([values[~np.isnan(values)], special, -special])


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_is_torchs(dtype) -> None:
    values = numbers()
    assert encode(values, dtype) == raw(torch.from_numpy(values).to(TORCH[dtype]))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_fp64_goes_the_way_of_torch(dtype) -> None:
    values = np.random.default_rng(1).standard_normal(100_000) * 10.0 ** np.random.default_rng(2).integers(
        -9, 9, 100_000
    )
    assert encode(values, dtype) == raw(torch.from_numpy(values).to(TORCH[dtype]))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_16_bit_number_is_read_as_torch_reads_it_and_comes_back(dtype) -> None:
    data = np.arange(2**16, dtype="<u2").tobytes()
    values = decode(data, dtype)
    expected = torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).float().numpy()
    np.testing.assert_array_equal(values, expected)
    real = ~np.isnan(values)
    assert real.sum() > 60_000
    again = np.frombuffer(encode(values, dtype), "<u2")
    np.testing.assert_array_equal(again[real], np.arange(2**16)[real])


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays_nan(dtype) -> None:
    """Among them the patterns that rounding by addition would carry into infinity or zero."""
    patterns = np.array([0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7F80FFFF], np.uint32)
    values = np.concatenate([patterns.view(np.float32), np.float32([1.0, np.inf])])
    again = decode(encode(values, dtype), dtype)
    np.testing.assert_array_equal(np.isnan(again), [*[True] * 6, False, False])
    assert again[6:].tolist() == [1.0, np.inf]


def test_nothing_is_nothing() -> None:
    for dtype in FLOATS:
        assert encode(decode(b"", dtype), dtype) == b""
    assert set(NAMES.values()) <= set(FLOATS)
