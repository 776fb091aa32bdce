"""The components that stay frozen while the transformer trains: read from a folder, or trained first on TagWorld."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, SchedulerMixin
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.errors import MissingError
from tagmoe.pipeline.components import make_autoencoder, make_scheduler, make_text_encoder, train_tokenizer
from tagmoe.pipeline.folder import OPTIONS
from tagmoe.pipeline.model_folder import model_folder
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.train.autoencoder import AutoencoderStage, measure_latents
from tagmoe.train.checkpoint import fill
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.ranks import Ranks
from tagmoe.train.text_encoder import TEMPLATE, TextEncoderStage, instructions
from tagmoe.world import SIZE, words

TOKENIZER_TEXTS = 20_000
SETTINGS = tuple(name for name in OPTIONS if name != "trained_on")
"""What a components folder states about prompts and defaults. `trained_on` is of its transformer."""


def tagworld_settings() -> dict[str, Any]:
    """The SETTINGS of components that a run trains itself, on TagWorld."""
    return {
        "prompt_template": TEMPLATE,
        "max_prompt_tokens": 64,
        "known_words": sorted(words()),
        "default_steps": 12,
        "default_cfg": 3.0,
        "default_size": SIZE,
    }


@dataclass(frozen=True)
class Components:
    """The components that encode pictures and instructions. They are frozen while the transformer trains.

    scheduler, settings: of the finished model; settings has values of SETTINGS by name.
    """

    vae: AutoencoderKLQwenImage
    tokenizer: Qwen2Tokenizer
    text_encoder: Qwen2_5_VLForConditionalGeneration
    scheduler: SchedulerMixin = field(default_factory=make_scheduler)
    settings: Mapping[str, Any] = field(default_factory=tagworld_settings)

    def to(self, device: torch.device) -> None:
        """Move the autoencoder and the text encoder."""
        self.vae.to(device)
        self.text_encoder.to(device)


def components_path(source: str) -> Path:
    """The folder that the setting 'components' names: "packaged", a model folder, or the folder of its run."""
    return packaged_folder() if source == "packaged" else model_folder(Path(source).expanduser())


def read_components(source: str) -> Components:
    """The components of a model folder, frozen, with all that the folder states about prompts and defaults.

    Raises MissingError when the folder does not exist, and the errors of `TagMoEPipeline.from_pretrained`.
    """
    folder = components_path(source)
    if not folder.is_dir():
        raise MissingError(
            f"There is no components folder {source!r}, which the recipe names; train it first with "
            '"tagmoe train tagworld/components", or set components to packaged.'
        )
    # Its transformer may be the largest part by far, and nobody needs it here.
    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=torch.float32, transformer=None)
    for name in ("vae", "text_encoder"):
        pipeline.part(name).eval().requires_grad_(False)
    settings = {name: pipeline.config[name] for name in SETTINGS}
    return Components(
        pipeline.vae, pipeline.part("tokenizer"), pipeline.text_encoder, pipeline.part("scheduler"), settings
    )


def train_components(run: Run, device: torch.device) -> Components:
    """Train all three from scratch (resumable), on this device. The returned parts hold the averaged weights."""
    ranks = Ranks(device=device)
    config = run.config
    auto = config.autoencoder
    vae = fast_single_frame(
        make_autoencoder(
            base_dim=auto.base_dim,
            z_dim=auto.z_dim,
            dim_mult=auto.dim_mult,
            num_res_blocks=auto.num_res_blocks,
            seed=config.seed,
        )
    )
    _keep_average(AutoencoderStage(vae, auto, config.seed, divide=config.divide), run, ranks)
    _keep_average(AutoencoderStage(vae, auto, config.seed, decoder_only=True, divide=config.divide), run, ranks)
    mean, std = measure_latents(vae, config.seed, divide=config.divide)
    vae.register_to_config(latents_mean=mean, latents_std=std)

    text = config.text_encoder
    texts = instructions(config.seed, TOKENIZER_TEXTS, config.divide)
    tokenizer = train_tokenizer(texts, vocab_size=text.vocab_size)
    encoder = make_text_encoder(
        tokenizer,
        hidden_size=text.hidden_size,
        num_layers=text.num_layers,
        num_heads=text.num_heads,
        num_kv_heads=text.num_kv_heads,
        intermediate_size=text.intermediate_size,
        seed=config.seed,
    )
    _keep_average(TextEncoderStage(encoder, tokenizer, text, config.seed, config.divide), run, ranks)
    return Components(vae.eval().requires_grad_(False), tokenizer, encoder.eval().requires_grad_(False))


def _keep_average(stage: AutoencoderStage | TextEncoderStage, run: Run, ranks: Ranks) -> None:
    fill(stage.modules, run_stage(stage, run, ranks))
