"""One tiny random pipeline of the real classes. In a module of its own: many folders have a `conftest`."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Any

TEXTS = (
    "make the person wear sunglasses",
    "add a red circle to the left of the blue square",
    "remove the green triangle",
    "change the background to stripes",
)
TINY_TEMPLATE = "<|im_start|>{}<|im_end|>"


def tiny_components(
    texts: Iterable[str], *, vocab_size: int = 320, hidden_size: int = 32, base_dim: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Random tokenizer, text_encoder, vae and scheduler, smaller than the packaged ones."""
    from tagmoe.pipeline.components import make_autoencoder, make_scheduler, make_text_encoder, train_tokenizer

    tokenizer = train_tokenizer(texts, vocab_size)
    return {
        "tokenizer": tokenizer,
        "text_encoder": make_text_encoder(
            tokenizer, hidden_size=hidden_size, num_layers=2, intermediate_size=2 * hidden_size, seed=seed
        ),
        "vae": make_autoencoder(base_dim=base_dim, z_dim=4, seed=seed),
        "scheduler": make_scheduler(),
    }


@cache
def _parts() -> dict[str, Any]:
    """The parts of `build_pipeline`, made once: each caller gets copies."""
    import torch

    from tagmoe.model.transformer import TagMoETransformer2DModel

    parts = tiny_components(TEXTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts["transformer"] = TagMoETransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            num_moe_blocks=2,
        ).eval()
    return parts


def build_pipeline(**overrides: Any) -> Any:
    """A new random TagMoEPipeline at 64x64: 4 blocks (2 with a mixture), 4 latent channels, factor 4."""
    import torch

    from tagmoe.pipeline.pipeline import TagMoEPipeline

    torch.set_num_threads(1)
    parts = {name: deepcopy(part) for name, part in _parts().items() if name not in overrides}
    options = {"prompt_template": TINY_TEMPLATE, "max_prompt_tokens": 64, "default_steps": 3, "default_size": 64}
    return TagMoEPipeline(**(parts | options | overrides))


def tagworld_pipeline(tiny: Any) -> Any:
    """The parts of a tiny pipeline as one that reads any TagWorld instruction and draws in two steps.

    Its tokenizer knows few words, so that an instruction takes more tokens than usual.
    """
    options = {"prompt_template": TINY_TEMPLATE, "max_prompt_tokens": 512, "default_size": 64}
    return type(tiny)(**tiny.components, **options, default_steps=2, default_cfg=2.0)


@cache
def _dense(num_layers: int) -> Any:
    import torch
    from diffusers import QwenImageTransformer2DModel

    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=num_layers, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    ).eval()  # fmt: skip


def build_dense(num_layers: int) -> Any:
    """A random dense Qwen-Image transformer of the size that `build_pipeline` takes; always the same."""
    return deepcopy(_dense(num_layers))
