"""Train the components of a TagWorld model that stay frozen later: tokenizer, autoencoder, text encoder."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AutoencoderKLQwenImage
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.pipeline.components import make_autoencoder, make_text_encoder, train_tokenizer
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.train.autoencoder import AutoencoderStage, measure_latents
from tagmoe.train.checkpoint import fill
from tagmoe.train.loop import Run, run_stage
from tagmoe.train.text_encoder import TextEncoderStage, instructions

TOKENIZER_TEXTS = 20_000


@dataclass(frozen=True)
class Components:
    """The components that encode pictures and instructions. They are frozen while the transformer trains."""

    vae: AutoencoderKLQwenImage
    tokenizer: Qwen2Tokenizer
    text_encoder: Qwen2_5_VLForConditionalGeneration


def train_components(run: Run) -> Components:
    """Train all three from scratch (resumable). The returned parts hold the averaged weights."""
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
    _keep_average(AutoencoderStage(vae, auto, config.seed, divide=config.divide), run)
    _keep_average(AutoencoderStage(vae, auto, config.seed, decoder_only=True, divide=config.divide), run)
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
    _keep_average(TextEncoderStage(encoder, tokenizer, text, config.seed, config.divide), run)
    return Components(vae.eval().requires_grad_(False), tokenizer, encoder.eval().requires_grad_(False))


def _keep_average(stage: AutoencoderStage | TextEncoderStage, run: Run) -> None:
    fill(stage.modules, run_stage(stage, run))
