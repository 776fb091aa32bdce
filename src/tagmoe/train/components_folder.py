"""The components that stay frozen while the transformer trains: read from a folder, or trained first on TagWorld."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, SchedulerMixin
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.config import RunConfig
from tagmoe.errors import MissingError
from tagmoe.pipeline.components import make_autoencoder, make_scheduler, make_text_encoder, train_tokenizer
from tagmoe.pipeline.folder import OPTIONS, check_model_folder, read_part
from tagmoe.pipeline.model_folder import model_folder
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.train.autoencoder import AutoencoderStage, measure_latents
from tagmoe.train.checkpoint import fill
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.ranks import CPU, Ranks
from tagmoe.train.text_encoder import TEMPLATE, TextEncoderStage, instructions
from tagmoe.world import SIZE, words

TOKENIZER_TEXTS = 20_000
ENCODERS = ("vae", "text_encoder")
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

    scheduler, settings: of the finished model; settings has values of SETTINGS by name. unread: the folder of an
    autoencoder and a text encoder that were made without weights, because nothing uses them before they are saved.
    """

    vae: AutoencoderKLQwenImage
    tokenizer: Qwen2Tokenizer
    text_encoder: Qwen2_5_VLForConditionalGeneration
    scheduler: SchedulerMixin = field(default_factory=make_scheduler)
    settings: Mapping[str, Any] = field(default_factory=tagworld_settings)
    unread: Path | None = None

    def to(self, device: torch.device) -> None:
        """Move the autoencoder and the text encoder."""
        self.vae.to(device)
        self.text_encoder.to(device)

    def complete(self) -> Components:
        """With the weights that were left out, on the host, in bf16 as a model folder holds them."""
        if self.unread is None:
            return self
        parts = {name: read_part(self.unread, name, dtype=torch.bfloat16, device=CPU) for name in ENCODERS}
        return replace(self, **parts, unread=None)


def components_path(source: str) -> Path:
    """The folder that the setting 'components' names: "packaged", a model folder, or the folder of its run."""
    return packaged_folder() if source == "packaged" else model_folder(Path(source).expanduser())


def components_folder(source: str) -> Path:
    """As `components_path`. Raises MissingError where there is no such folder."""
    folder = components_path(source)
    if not folder.is_dir():
        raise MissingError(
            f"There is no components folder {source!r}, which the recipe names; train it first with "
            '"tagmoe train tagworld/components", or set components to packaged.'
        )
    return folder


def are_used(config: RunConfig, *, encoded: bool, judged: bool) -> bool:
    """Whether a run encodes or draws anything by its components: not on an encoded store whose model nobody judges.

    judged: whether validation draws pictures. The names of tags are read by the text encoder too.
    """
    return not encoded or judged or config.loss.tag_embedding == "text"


def components_dtype(precision: str, device: str) -> torch.dtype:
    """What components that are used compute in: on a GPU bf16 where training does, as `tagmoe data encode`."""
    return torch.bfloat16 if device == "cuda" and precision == "bf16" else torch.float32


def read_components(
    source: str, *, dtype: torch.dtype = torch.float32, device: torch.device = CPU, used: bool = True
) -> Components:
    """The components of a model folder, frozen, with all that the folder states about prompts and defaults.

    device: where they are put, a tensor at a time. Without `used`, no weights are read (`Components.unread`).

    Raises MissingError when the folder does not exist, and the errors of `TagMoEPipeline.from_pretrained`.
    """
    folder = components_folder(source)
    # Its transformer may be the largest part by far, and nobody needs it here.
    parts: dict[str, Any] = {"transformer": None}
    if device != CPU or not used:
        check_model_folder(folder, given=("transformer",))
        parts |= dict.fromkeys(ENCODERS)
    pipeline = TagMoEPipeline.from_pretrained(folder, dtype=dtype, **parts)
    where = device if used else torch.device("meta")
    made = {
        name: read_part(folder, name, dtype=dtype, device=where) if name in parts else pipeline.part(name)
        for name in ENCODERS
    }
    for part in made.values():
        part.eval().requires_grad_(False)
    settings = {name: pipeline.config[name] for name in SETTINGS}
    return Components(
        fast_single_frame(made["vae"]),
        pipeline.part("tokenizer"),
        made["text_encoder"],
        pipeline.part("scheduler"),
        settings,
        unread=None if used else folder,
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
