"""Checkpoints of the full size that take hardly any disk: files of zeros, sparse, with small random tensors.

Names, shapes and files are those of the published layout. What a converter does to them costs as many bytes read and
written as with the real ones; what a model of them computes means nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe.weights.dtypes import encode
from tagmoe.weights.layout import ffn_layout
from tagmoe.weights.release import alignment_shapes, dense_shapes, mixture_pieces
from tagmoe.weights.shards import STEM, tensor_bytes

SHARD_BYTES = 5 * 10**9
"""Of a file, about; those of Qwen-Image hold so many."""
SMALL = 1 << 20
"""Bytes of a tensor up to which it is random: norms, biases, gates."""
WIDTH = 3072
CONFIG: dict[str, Any] = {
    "_class_name": "QwenImageTransformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 3584,
    "num_attention_heads": 24,
    "num_layers": 60,
    "out_channels": 16,
    "patch_size": 2,
}
"""Of Qwen-Image's transformer."""


def dense(blocks: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of Qwen-Image's transformer with so many blocks."""
    return dense_shapes(CONFIG | {"num_layers": blocks})


def released(blocks: int, mixtures: int, experts: int = 4) -> dict[str, tuple[int, ...]]:
    """Every tensor of the authors' release with so many blocks, the last of them mixtures."""
    shapes = dense(blocks)
    for block in range(blocks - mixtures, blocks):
        for name in ffn_layout(WIDTH):
            del shapes[f"transformer_blocks.{block}.img_mlp.{name}"]
        mixture, _, unused = mixture_pieces(block, WIDTH, experts)
        shapes |= mixture | {unused: (WIDTH,)}
    return shapes | alignment_shapes(experts)


def write_sparse(folder: Path, shapes: Mapping[str, tuple[int, ...]], *, stem: str = STEM, seed: int = 0) -> int:
    """Write the tensors in bf16 into sparse files, with their index; returns their bytes. stem: of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in sorted(shapes.items()):
        size = tensor_bytes("BF16", shape)
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    weight_map, total = {}, 0
    for number, names in enumerate(shards, 1):
        file = folder / f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        total += _write_file(file, {name: shapes[name] for name in names}, draw)
        weight_map |= dict.fromkeys(names, file.name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return total


def _write_file(file: Path, shapes: Mapping[str, tuple[int, ...]], draw: np.random.Generator) -> int:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = tensor_bytes("BF16", shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        handle.truncate(start + at)
        for name, shape in shapes.items():
            first, end = header[name]["data_offsets"]  # type: ignore[misc]
            if end - first <= SMALL:
                handle.seek(start + first)
                values = draw.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
                handle.write(encode(values, "BF16"))
    return at


def taken(folder: Path) -> int:
    """Bytes of disk that the files of a folder take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
