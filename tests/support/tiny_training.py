"""A training set-up of real classes, so small that a step takes milliseconds."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from tagmoe.config import RunConfig, check_config
from tagmoe.pipeline.components import make_autoencoder, make_text_encoder, train_tokenizer
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.train.components_folder import Components
from tagmoe.train.recipe import assemble, dense_transformer, save_model, train
from tagmoe.train.text_encoder import instructions

TAGWORLD_SEED = 5
"""Of the samples in the store that the fixture `tagworld` makes."""
SETTINGS: dict[str, Any] = {
    "precision": "fp32",
    "threads": 1,
    "save_every": 3,
    "validate_every": 100,
    "transformer": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6]},
    "moe": {"num_moe_blocks": 1},
    "loss": {"semantic_dim": 18, "head_hidden": 16},
    "optimizer": {"warmup_steps": 2},
    "base": {"steps": 6, "batch": 4, "unique_samples": 64},
    "unified": {"steps": 6, "batch": 4, "unique_samples": 64, "text_to_image_every": 3},
}


def tiny_config(folder: Path, components: str, latents: str, /, **changes: Any) -> RunConfig:
    """A checked config of a run in `folder`. changes: replace whole blocks."""
    merged = SETTINGS | changes
    for key, value in changes.items():
        if isinstance(value, dict):
            merged[key] = {**SETTINGS.get(key, {}), **value}
    return check_config({"components": components, "cache_dir": latents, "output_dir": str(folder), **merged})


def train_quietly(config: RunConfig, *, resume: bool = False) -> Path:
    """Train without validation and without a word; returns the folder of the model."""
    torch.manual_seed(torch.seed() % 2**31)  # the result must not depend on global random state
    return train(config, validator=lambda *_: {}, resume=resume, console=Console(quiet=True))


@cache
def _components() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory()
    tokenizer = train_tokenizer(instructions(0, 500), vocab_size=420)
    encoder = make_text_encoder(
        tokenizer, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=32
    )
    vae = fast_single_frame(make_autoencoder(base_dim=4, z_dim=4, dim_mult=(1, 1, 2, 2)))
    parts = Components(vae, tokenizer, encoder)
    config = check_config({**SETTINGS, "output_dir": "unused"})
    save_model(assemble(dense_transformer(config, parts), parts), Path(folder.name) / "model")
    return folder


def write_components(folder: Path) -> str:
    """Write an untrained pipeline whose autoencoder and text encoder a run can use; returns its path."""
    shutil.copytree(Path(_components().name) / "model", folder)
    return str(folder)
