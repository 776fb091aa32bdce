"""Sparse upcycling: a mixture model that starts from a trained dense one (paper 4.1 and implementation details).

This module works in memory, for models that are trained here. tagmoe.weights.upcycle converts checkpoints of any size
on the disk.
"""

from __future__ import annotations

from functools import partial
from math import prod
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.utils import logging
from torch import nn

from tagmoe.errors import ConfigError
from tagmoe.model.moe import MoE
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.weights.layout import DENSE_DEFAULTS, is_output_layer, mixture_settings, rounding_note, takes_noise

logger = logging.get_logger(__name__)


def upcycle(
    dense: QwenImageTransformer2DModel,
    *,
    num_moe_blocks: int,
    num_experts: int = 4,
    top_k: int = 1,
    gate: str = "mlp",
    gate_hidden: int | None = None,
    mode: str = "exact",
    noise: float = 0.0,
    drop: float = 0.0,
    gate_input: str = "modulated",
    generator: torch.Generator | None = None,
) -> TagMoETransformer2DModel:
    """Build the mixture in memory: every expert of the last `num_moe_blocks` blocks copies that block's dense FFN.

    mode "exact": the experts' output layer (weight and bias) is scaled by num_experts / top_k, the inverse of the sum
    of the near-tied scores, so that the mixture equals the dense model at step 0. mode "plain": unscaled copies, so
    each mixture starts at about top_k / num_experts of its FFN. In 16 bits "exact" is exact only if num_experts / top_k
    is a power of two; otherwise a warning says so. `noise` adds Gaussian noise of that share of each
    weight's standard deviation. `drop` is the share of each expert's hidden units that start anew, other ones in every
    expert, with weights of the mean and standard deviation of those that they replace (Drop-Upcycling, arXiv
    2502.19261). The result has the dense model's dtype and device; `generator` makes it repeatable.

    Raises ConfigError for a bad number, mode or gate, and when `dense` is a mixture already.
    """
    if not 0 <= drop <= 1:
        raise ConfigError(f"The share of hidden units to drop is {drop}; give 0 to 1.")
    config = {name: dense.config[name] for name in DENSE_DEFAULTS}
    added = mixture_settings(
        num_layers=dense.config.num_layers,
        num_moe_blocks=num_moe_blocks,
        num_experts=num_experts,
        top_k=top_k,
        gate=gate,
        gate_hidden=gate_hidden,
        mode=mode,
        noise=noise,
        present=dense.config,
    )
    moe_model: TagMoETransformer2DModel = TagMoETransformer2DModel.from_config(
        config | added | {"gate_input": gate_input}
    ).to(dense.device)
    if note := rounding_note(added["expert_scale"], str(dense.dtype)):
        logger.warning(note)
    if dense.dtype != torch.float32:
        moe_model = moe_model.to(dense.dtype)
    dense_state = dense.state_dict()
    with torch.no_grad():
        for name, parameter in moe_model.named_parameters():
            if name in dense_state:
                parameter.copy_(dense_state[name])
        for block_dense, block in zip(dense.transformer_blocks, moe_model.transformer_blocks, strict=True):
            if not isinstance(block.img_mlp, MoE):
                continue
            block.img_mlp.gate.reset_parameters(generator)
            source = block_dense.img_mlp.state_dict()
            for expert in block.img_mlp.experts:
                for name, parameter in expert.named_parameters():
                    parameter.copy_(source[name])
                    if noise and takes_noise(parameter.shape):
                        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                        parameter.add_(draw.to(parameter) * (noise * parameter.std()))
                if drop:
                    _start_units_anew(expert, drop, generator)
                for name, parameter in expert.named_parameters():
                    if is_output_layer(name):
                        parameter.mul_(added["expert_scale"])
    return moe_model


def _start_units_anew(expert: nn.Module, share: float, generator: torch.Generator | None) -> None:
    """Draw the weights of a random share of an FFN's hidden units anew, from the statistics of those they had."""
    layers = dict(expert.named_parameters())
    into, out = layers["net.0.proj.weight"], layers["net.2.weight"]
    units = torch.randperm(into.shape[0], generator=generator)[: round(share * into.shape[0])]
    bias = layers.get("net.0.proj.bias")
    for weights, at in ((into, (units,)), (out, (slice(None), units)), *([] if bias is None else [(bias, (units,))])):
        before = weights[at].float()
        draw = torch.randn(before.shape, generator=generator)
        spread = before.std() if before.numel() > 1 else before.new_zeros(())
        weights[at] = (before.mean() + draw * spread).to(weights.dtype)


def widen(
    dense: QwenImageTransformer2DModel, *, num_blocks: int, factor: int, generator: torch.Generator | None = None
) -> TagMoETransformer2DModel:
    """A dense model whose last `num_blocks` image FFNs are `factor` times as wide, and which computes the same.

    The new hidden units start with random input weights, drawn as `nn.Linear` draws them, and without any output. It is
    the control for the capacity that a mixture adds. Raises ConfigError for a bad number and for a mixture.
    """
    if dense.config.get("num_moe_blocks"):
        raise ConfigError("The model to widen has mixture blocks; start from a dense model.")
    config = {name: dense.config[name] for name in DENSE_DEFAULTS}
    wide: TagMoETransformer2DModel = TagMoETransformer2DModel.from_config(
        config | {"num_wide_blocks": num_blocks, "wide_factor": factor}
    ).to(dense.device, dense.dtype)
    dense_state = dense.state_dict()
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            source = dense_state[name]
            if parameter.shape == source.shape:
                parameter.copy_(source)
                continue
            bound = 0.0 if is_output_layer(name.partition("img_mlp.")[2]) else wide.inner_dim**-0.5
            drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
            drawn[tuple(slice(size) for size in source.shape)] = source.float().cpu()
            parameter.copy_(drawn)
    return wide


def drift(
    dense: QwenImageTransformer2DModel,
    moe: QwenImageTransformer2DModel,
    *,
    grid: tuple[int, int, int] = (1, 4, 4),
    references: int = 1,
    text_tokens: int = 8,
    batch: int = 2,
    seed: int = 0,
) -> float:
    """How far the mixture starts from its dense model: max |moe - dense| / max |dense| on a seeded random batch."""
    probe = partial(_output, grid=grid, references=references, text_tokens=text_tokens, batch=batch, seed=seed)
    return _difference(probe(dense), probe(moe))


def drift_of_folders(dense: Path, moe: Path, *, dtype: torch.dtype, seed: int = 0) -> float:
    """`drift` of two folders in `dtype`. They are loaded one after the other and never share the memory."""
    # No name holds a model, so each one is freed before the next is loaded.
    return _difference(
        *(
            _output(TagMoETransformer2DModel.from_pretrained(folder, dtype=dtype).eval(), seed=seed)
            for folder in (dense, moe)
        )
    )


def _output(
    model: QwenImageTransformer2DModel,
    *,
    grid: tuple[int, int, int] = (1, 4, 4),
    references: int = 1,
    text_tokens: int = 8,
    batch: int = 2,
    seed: int = 0,
) -> torch.Tensor:
    """The model's fp32 output on the probe batch, which is the same for models of the same settings."""
    generator = torch.Generator().manual_seed(seed)
    image_tokens = prod(grid) * (1 + references)
    device, dtype = model.device, model.dtype

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    inputs = {
        "hidden_states": random(batch, image_tokens, model.config.in_channels),
        "encoder_hidden_states": random(batch, text_tokens, model.config.joint_attention_dim),
        "timestep": torch.rand(batch, generator=generator).to(device, dtype),
        "img_shapes": [[grid] * (1 + references)] * batch,
    }
    if model.config.use_additional_t_cond:
        inputs["additional_t_cond"] = torch.zeros(batch, dtype=torch.long, device=device)
    with torch.no_grad():
        output: torch.Tensor = model(**inputs, return_dict=False)[0]
    return output.float()


def _difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
