"""Names, shapes and initial values of a mixture's tensors, and the rules of upcycling, without torch.

The model's modules, upcycling in memory and upcycling on the disk all use this one definition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tagmoe.errors import ConfigError
from tagmoe.sentences import counted

SETTINGS: Mapping[str, str | int] = {
    "gate_input": "modulated",
    "num_wide_blocks": 0,
    "routing_tokens": "all",
    "wide_factor": 1,
}
"""Settings of the model that no tensor depends on in a new mixture, at the model's defaults."""
GATE_KINDS = ("mlp", "linear", "text")
UPCYCLE_MODES = ("exact", "plain")

# Standard deviation of the initial logits. They are near-tied, so that exact upcycling equals the dense model to 1e-5
# in fp32. They are not exactly tied, because ties send every token to expert 0 and leave the others without a gradient.
INITIAL_LOGIT_STD = 1e-6

# The settings of diffusers' QwenImageTransformer2DModel and their defaults; older config.json leave some out.
DENSE_DEFAULTS: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
    "zero_cond_t": False,
    "use_additional_t_cond": False,
    "use_layer3d_rope": False,
}


@dataclass(frozen=True)
class GateTensor:
    """A parameter of a gate and how it is drawn: uniform in [-bound, bound], normal with std, or zero."""

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0
    std: float = 0.0


def gate_layout(dim: int, num_experts: int, kind: str = "mlp", hidden: int | None = None) -> tuple[GateTensor, ...]:
    """The gate's parameters in the order in which they are drawn; the last layer is tiny (see INITIAL_LOGIT_STD).

    kind "mlp" has two layers with biases, `hidden` wide (dim // 4 when None), "linear" one without a bias. "text" is
    "mlp" whose first layer also reads the pooled text: W [x; U c].
    Raises ConfigError for an unknown kind and impossible numbers.
    """
    if kind not in GATE_KINDS:
        raise ConfigError(f"The gate {kind!r} is unknown; choose one of {', '.join(GATE_KINDS)}.")
    if num_experts < 2:
        raise ConfigError(f"A mixture has {num_experts} expert(s); give num_experts at least 2.")
    if hidden is not None and hidden < 1:
        raise ConfigError(f"The gate's hidden width is {hidden}; give at least 1, or None for dim // 4.")
    if kind == "linear":
        return (GateTensor("proj_out.weight", (num_experts, dim), std=INITIAL_LOGIT_STD * dim**-0.5),)
    width = hidden if hidden is not None else max(dim // 4, num_experts)
    two_layers = (
        GateTensor("proj_in.weight", (width, dim), bound=dim**-0.5),
        GateTensor("proj_in.bias", (width,), bound=dim**-0.5),
        GateTensor("proj_out.weight", (num_experts, width), std=INITIAL_LOGIT_STD * width**-0.5),
        GateTensor("proj_out.bias", (num_experts,)),
    )
    return two_layers if kind == "mlp" else (*two_layers, GateTensor("proj_text.weight", (width, dim), bound=dim**-0.5))


def ffn_layout(dim: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of diffusers' FeedForward, which a dense block has once and a mixture once an expert."""
    return {
        "net.0.proj.weight": (4 * dim, dim),
        "net.0.proj.bias": (4 * dim,),
        "net.2.weight": (dim, 4 * dim),
        "net.2.bias": (dim,),
    }


def is_output_layer(ffn_name: str) -> bool:
    """Whether this tensor of an FFN makes its output, and so carries `expert_scale`."""
    return ffn_name.startswith("net.2.")


def takes_noise(shape: tuple[int, ...]) -> bool:
    """Whether the noise of upcycling goes on a tensor of this shape: on weights, not on biases."""
    return len(shape) > 1


def mixture_settings(
    *,
    num_layers: int,
    num_moe_blocks: int,
    num_experts: int,
    top_k: int,
    gate: str,
    gate_hidden: int | None,
    mode: str,
    noise: float,
    present: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings that upcycling adds to the dense model's config, checked; `present` is the config it has.

    Raises ConfigError for a bad number, mode or gate, and when the model is a mixture already.
    """
    if mode not in UPCYCLE_MODES:
        raise ConfigError(f"The upcycling mode {mode!r} is unknown; choose one of {', '.join(UPCYCLE_MODES)}.")
    if not 0 <= noise < math.inf:
        raise ConfigError(f"The upcycling noise is {noise}; give 0 or more.")
    if present.get("num_moe_blocks"):
        raise ConfigError(
            f"The model to upcycle already has {counted(present['num_moe_blocks'], 'mixture block')}; start from a "
            "dense model."
        )
    if not 1 <= num_moe_blocks <= num_layers:
        raise ConfigError(f"num_moe_blocks is {num_moe_blocks}; give a number from 1 to num_layers = {num_layers}.")
    gate_layout(1, num_experts, gate, gate_hidden)
    if not 1 <= top_k <= num_experts:
        raise ConfigError(f"top_k is {top_k}; give a number from 1 to num_experts = {num_experts}.")
    return {
        "num_moe_blocks": num_moe_blocks,
        "num_experts": num_experts,
        "top_k": top_k,
        "gate": gate,
        "gate_hidden": gate_hidden,
        "expert_bias": True,
        # The top_k near-tied scores sum to about top_k / num_experts. This factor undoes that at step 0.
        "expert_scale": num_experts / top_k if mode == "exact" else 1.0,
        **SETTINGS,
    }


def rounding_note(expert_scale: float, dtype: str) -> str | None:
    """A sentence when exact upcycling is not exact: 16 bits hold a product only if its factor is a power of two."""
    if dtype.removeprefix("torch.") not in ("bfloat16", "float16", "BF16", "F16", "bf16", "fp16"):
        return None
    if math.frexp(expert_scale)[0] == 0.5:
        return None
    return (
        f"The experts' outputs are scaled by {expert_scale:.4g}, which {dtype.removeprefix('torch.')} rounds, so the "
        "mixture does not start exactly at the dense model; use float32, or num_experts / top_k a power of two."
    )
