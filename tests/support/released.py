"""A synthetic checkpoint in exactly the layout of the authors' release, small, beside a base pipeline of real classes.

Written from the facts of the release, not from the code under test: the names below are spelt out once more.
"""

from __future__ import annotations

import json
import math
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from support.tiny_model import build_pipeline

BLOCKS, MIXTURES, EXPERTS, DIM, FFN = 4, (2, 3), 4, 32, 128
WEIGHTS = "diffusion_pytorch_model.safetensors"


def released_weights(dense: dict[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random released weights over a dense state: every weight another one, every bias far from zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    weights = {name: value + draw(*value.shape, scale=0.02) for name, value in dense.items()}
    for block in MIXTURES:
        here = f"transformer_blocks.{block}.img_mlp"
        for name in [name for name in weights if name.startswith(f"{here}.net.")]:
            del weights[name]
        weights[f"{here}.router.layer.weight"] = draw(EXPERTS, DIM, scale=0.2)
        weights[f"{here}.experts.mlp.w1"] = draw(EXPERTS * FFN, DIM, scale=0.3)
        weights[f"{here}.experts.mlp.w2"] = draw(EXPERTS * FFN, DIM, scale=0.3)
        weights[f"{here}.experts.bias"] = draw(DIM) + 5
    weights["tag_embedding.weight"] = draw(18, 512)
    for layer, (wide, narrow) in {0: (256, EXPERTS), 2: (256, 256), 4: (512, 256)}.items():
        weights[f"router_head.net.{layer}.weight"] = draw(wide, narrow)
        weights[f"router_head.net.{layer}.bias"] = draw(wide)
    return weights


def save_base(folder: Path) -> Path:
    """A dense base pipeline folder of the real classes, as Qwen/Qwen-Image is one."""
    from diffusers import QwenImageTransformer2DModel

    torch.manual_seed(1)
    dense = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=BLOCKS, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    build_pipeline(transformer=dense).save_pretrained(folder)
    return folder


def dense_state(base: Path) -> dict[str, torch.Tensor]:
    """The weights of the base's transformer."""
    from safetensors.torch import load_file

    return load_file(base / "transformer" / WEIGHTS)


def save_released(weights: dict[str, torch.Tensor], folder: Path, *, shards: int = 1, name: str = WEIGHTS) -> Path:
    """Write a released checkpoint into a folder, in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(weights, folder / name, metadata={"format": "pt"})
        return folder
    stem = name.removesuffix(".safetensors")
    weight_map: dict[str, Any] = {}
    for number in range(shards):
        part = {key: weights[key] for key in sorted(weights)[number::shards]}
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def sparse_release(folder: Path, *, layers: int, mixtures: int, heads: int) -> int:
    """A bf16 release of zeros with that many 128-wide heads, in a file that takes no disk; returns its size in bytes.

    A folder beside it, `base`, is all of a base that a conversion reads.
    """
    from diffusers import QwenImageTransformer2DModel

    settings = {"num_layers": layers, "num_attention_heads": heads}
    with torch.device("meta"):
        dense = QwenImageTransformer2DModel(**settings).state_dict()
    dim = 128 * heads
    shapes = {name: tuple(value.shape) for name, value in dense.items()}
    for block in range(layers - mixtures, layers):
        here = f"transformer_blocks.{block}.img_mlp"
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(f"{here}.")}
        shapes[f"{here}.router.layer.weight"] = (EXPERTS, dim)
        shapes |= {f"{here}.experts.mlp.{name}": (EXPERTS * 4 * dim, dim) for name in ("w1", "w2")}
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + offset)
    base = folder.parent / "base"
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (base / part).mkdir(parents=True)
    (base / "transformer" / "config.json").write_text(json.dumps(settings))
    (base / "model_index.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, base / "vae" / WEIGHTS)
    save_file({"a": torch.zeros(1)}, base / "text_encoder" / "model.safetensors")
    return offset


def fake_hub(folder: Path, repositories: dict[str, Path], asked: list[tuple[str, dict[str, Any]]]) -> Any:
    """A stand-in for huggingface_hub.snapshot_download that has these repositories and no network.

    It gives a folder with those files alone that the patterns allow, and notes every call.
    """

    def download(repository: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append((repository, options))
        if repository not in repositories:
            raise OSError("no network")
        snapshot = folder / repository.replace("/", "--")
        for file in (file for file in repositories[repository].rglob("*") if file.is_file()):
            name = file.relative_to(repositories[repository]).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, snapshot / name)
        snapshot.mkdir(parents=True, exist_ok=True)
        return str(snapshot)

    return download
