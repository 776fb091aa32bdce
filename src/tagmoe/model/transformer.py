"""The TAG-MoE diffusion transformer: diffusers' Qwen-Image transformer with mixtures in its last blocks (paper 4.1).

Names here are diffusers' own, because LoRA, offload and caches of the ecosystem look for them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_qwenimage import (
    QwenImageTransformerBlock,
    compute_text_seq_len_from_mask,
)
from diffusers.utils import BaseOutput, apply_lora_scale

from tagmoe.errors import ConfigError, UsageError
from tagmoe.model.cpu.attention import RealRoPEAttnProcessor, real_rotary
from tagmoe.model.cpu.experts import LEAST_ROWS
from tagmoe.model.loading import StrictLoadingMixin
from tagmoe.model.lora import LoraAdapterMixin
from tagmoe.model.moe import MoE
from tagmoe.model.routing import (
    ROUTING_TOKENS,
    Grid,
    RouterStats,
    RoutingTrace,
    counted_by_layer,
    router_stats,
    token_grids,
)
from tagmoe.model.wrapping import holds_hooks

RETURN_ROUTING = (None, "stats", "full")
GATE_INPUTS = ("modulated", "normed")


def check_return_routing(model: QwenImageTransformer2DModel, return_routing: str | None) -> None:
    """Raise UsageError when a model cannot return this routing.

    That is so for an unknown kind, for a model without mixture blocks, with a step cache, which skips blocks, and under
    context parallelism, where every process sees a part of the tokens.
    """
    if return_routing not in RETURN_ROUTING:
        raise UsageError(f'return_routing is {return_routing!r}; give None, "stats" or "full".')
    if return_routing is None:
        return
    if not getattr(model.config, "num_moe_blocks", 0):
        raise UsageError(f"return_routing is {return_routing!r} but this model has no mixture blocks; pass None.")
    if model.is_cache_enabled:
        raise UsageError(
            f"return_routing is {return_routing!r} while a step cache skips blocks; call disable_cache() first."
        )
    if is_context_parallel(model):
        raise UsageError(
            f"return_routing is {return_routing!r} under context parallelism, where a process sees only a part of the "
            "tokens; pass None."
        )


def is_context_parallel(model: QwenImageTransformer2DModel) -> bool:
    """Whether every process sees only a part of the tokens."""
    return getattr(model._parallel_config, "context_parallel_config", None) is not None


def takes_target_only(model: QwenImageTransformer2DModel) -> bool:
    """Whether the model's forward has the argument `target_only`. diffusers' own has not."""
    return "target_only" in inspect.signature(type(model).forward).parameters


def takes_guidance(model: QwenImageTransformer2DModel) -> bool:
    """Whether the time embedding has a place for a guidance scale. That of diffusers' Qwen-Image has none."""
    return "guidance" in inspect.signature(model.time_text_embed.forward).parameters


def check_guidance(model: QwenImageTransformer2DModel) -> None:
    """Raise UsageError for a guidance-distilled model without a layer for the scale. One of its own forward may do."""
    own_forward = type(model).forward not in (QwenImageTransformer2DModel.forward, TagMoETransformer2DModel.forward)
    if model.config.guidance_embeds and not takes_guidance(model) and not own_forward:
        raise UsageError(
            "The transformer has guidance_embeds, but no layer for a guidance scale; use a class that has one."
        )


@dataclass
class TagMoETransformerOutput(BaseOutput):
    """sample (B, T, out): the predicted velocity of every image token, with `target_only` of the target's alone.

    routing: what `return_routing` asked for.
    """

    sample: torch.Tensor
    routing: RouterStats | RoutingTrace | None = None


class TagMoETransformerBlock(QwenImageTransformerBlock):
    """A dual-stream block whose image MLP is a mixture (paper 4.1, Eq. 1).

    Without `return_routing` it returns exactly what its parent returns. With it, a third item holds two tensors: for
    "stats" those of `router_stats`, for "full" the scores and expert ids of every token. They are returned and not
    stored, because gradient checkpointing runs a block twice and would count an attribute twice.
    """

    def __init__(
        self,
        dim: int,
        num_attention_heads: int,
        attention_head_dim: int,
        num_experts: int,
        top_k: int,
        gate: str,
        gate_hidden: int | None,
        expert_bias: bool,
        zero_cond_t: bool = False,
        gate_input: str = "modulated",
    ) -> None:
        super().__init__(dim, num_attention_heads, attention_head_dim, zero_cond_t=zero_cond_t)
        self.img_mlp = MoE(dim, num_experts, top_k, gate, gate_hidden, expert_bias)
        self.gate_sees_modulation = gate_input == "modulated"
        self.gate_reads_text = gate == "text"

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        modulate_index: torch.Tensor | None = None,
        return_routing: str | None = None,
        counted_tokens: int | None = None,
        live_tokens: int | None = None,
    ) -> tuple[Any, ...]:
        """(B, T, D) image and (B, S, D) text streams -> (text, image) and, if asked, the routing tensors.

        counted_tokens: how many tokens, the first, the statistics are of; None: all. live_tokens is for the last block,
        whose text stream and reference tokens nobody reads: the image stream then has so many tokens, its first, and
        the text stream is given back as it came. Gates score the other tokens only where their routing is asked for.
        """
        img_mod1, img_mod2 = self.img_mod(temb).chunk(2, dim=-1)
        if self.zero_cond_t:
            temb = torch.chunk(temb, 2, dim=0)[0]
        txt_mod1, txt_mod2 = self.txt_mod(temb).chunk(2, dim=-1)

        gate_options: dict[str, torch.Tensor] = {}
        if self.gate_reads_text:
            gate_options["text_BD"] = pooled_text(self.txt_norm1(encoder_hidden_states), encoder_hidden_states_mask)

        img_modulated, img_gate1 = self._modulate(self.img_norm1(hidden_states), img_mod1, modulate_index)
        txt_modulated, txt_gate1 = self._modulate(self.txt_norm1(encoder_hidden_states), txt_mod1)
        img_attn_output, txt_attn_output = self.attn(
            hidden_states=img_modulated,
            encoder_hidden_states=txt_modulated,
            encoder_hidden_states_mask=encoder_hidden_states_mask,
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )
        hidden_states = hidden_states + img_gate1 * img_attn_output
        drops_tokens = live_tokens is not None and live_tokens < hidden_states.shape[1]
        if drops_tokens and (return_routing is None or counted_tokens == live_tokens):
            hidden_states = hidden_states[:, :live_tokens]
            modulate_index = None if modulate_index is None else modulate_index[:, :live_tokens]

        img_normed2 = self.img_norm2(hidden_states)
        img_modulated2, img_gate2 = self._modulate(img_normed2, img_mod2, modulate_index)
        if not self.gate_sees_modulation:
            gate_options["gate_BTD"] = img_normed2
        img_mlp_output, scores_BTN, expert_ids_BTA = self.img_mlp(
            img_modulated2,
            return_routing=True,
            live_tokens=live_tokens,
            least_rows=LEAST_ROWS if drops_tokens else 1,
            **gate_options,
        )
        hidden_states = hidden_states[:, :live_tokens] + img_gate2[:, :live_tokens] * img_mlp_output

        # A hook may count on being called in the same order in every forward: offloading loads the next layer ahead.
        if live_tokens is None or holds_hooks(self.txt_mlp):
            encoder_hidden_states = encoder_hidden_states + txt_gate1 * txt_attn_output
            txt_modulated2, txt_gate2 = self._modulate(self.txt_norm2(encoder_hidden_states), txt_mod2)
            encoder_hidden_states = encoder_hidden_states + txt_gate2 * self.txt_mlp(txt_modulated2)

        if encoder_hidden_states.dtype == torch.float16:
            encoder_hidden_states = encoder_hidden_states.clip(-65504, 65504)
        if hidden_states.dtype == torch.float16:
            hidden_states = hidden_states.clip(-65504, 65504)

        if return_routing is None:
            return encoder_hidden_states, hidden_states
        if return_routing == "stats":
            stats = router_stats(scores_BTN[:, :counted_tokens], expert_ids_BTA[:, :counted_tokens])
            return encoder_hidden_states, hidden_states, stats
        return encoder_hidden_states, hidden_states, (scores_BTN, expert_ids_BTA)


def pooled_text(text_BSD: torch.Tensor, mask_BS: torch.Tensor | None) -> torch.Tensor:
    """The mean of a sample's text tokens, (B, D). mask_BS: 1 for real tokens; None: all are real."""
    if mask_BS is None:
        return text_BSD.mean(dim=1)
    kept_BS1 = mask_BS.to(text_BSD.dtype).unsqueeze(-1)
    return (text_BSD * kept_BS1).sum(dim=1) / kept_BS1.sum(dim=1).clamp_min(1)


# Step caches (FirstBlockCache and others) look a block's outputs up by its exact class.
TransformerBlockRegistry.register(
    TagMoETransformerBlock,
    replace(TransformerBlockRegistry.get(QwenImageTransformerBlock), _cached_parameter_indices=None),
)


class TagMoETransformer2DModel(StrictLoadingMixin, LoraAdapterMixin, QwenImageTransformer2DModel):
    """Qwen-Image's transformer with `MoE` in place of `img_mlp` in the last `num_moe_blocks` blocks (paper 4.1).

    With num_moe_blocks=0 it is diffusers' model, bit for bit. Reference images are appended as tokens: `img_shapes`
    holds [target, *references] for each sample. The config describes the mixture completely.

    `expert_scale` changes no computation: it records the factor that upcycling folded into the experts' output layers
    (num_experts / top_k in mode exact), so that a LoRA made for the dense FFN can be scaled alike.

    `routing_tokens` says which image tokens count in the statistics that `return_routing` gives, and so in Eq. 3 and in
    L_lbl (`ROUTING_TOKENS`). It changes no picture.

    `num_wide_blocks`: of a dense model, how many of the last blocks have an image FFN `wide_factor` times as wide.
    `gate_input`: "modulated", or "normed" where the gate sees its tokens before the modulation by time.

    Raises ConfigError for impossible numbers, an unknown gate, an unknown gate_input or unknown routing_tokens.
    """

    # model_index.json of a saved pipeline then names ["tagmoe", "TagMoETransformer2DModel"], whatever file it lives in
    __module__ = "tagmoe"

    _no_split_modules = ["QwenImageTransformerBlock", "TagMoETransformerBlock"]  # noqa: RUF012 (diffusers' protocol)
    _repeated_blocks = ["QwenImageTransformerBlock", "TagMoETransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["pos_embed", "norm", "gate"]  # noqa: RUF012
    # diffusers applies a tensor-parallel plan to every block, but mixture blocks lack img_mlp.net: keep it unsharded
    _tp_plan = {  # noqa: RUF012
        name: style for name, style in QwenImageTransformer2DModel._tp_plan.items() if ".img_mlp." not in name
    }

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 64,
        out_channels: int | None = 16,
        num_layers: int = 60,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 3584,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
        zero_cond_t: bool = False,
        use_additional_t_cond: bool = False,
        use_layer3d_rope: bool = False,
        num_moe_blocks: int = 0,
        num_experts: int = 4,
        top_k: int = 1,
        gate: str = "mlp",
        gate_hidden: int | None = None,
        expert_bias: bool = True,
        expert_scale: float = 1.0,
        routing_tokens: str = "all",
        gate_input: str = "modulated",
        num_wide_blocks: int = 0,
        wide_factor: int = 1,
    ) -> None:
        if num_wide_blocks and (num_moe_blocks or num_wide_blocks > num_layers):
            raise ConfigError(
                f"num_wide_blocks is {num_wide_blocks}; it is for a dense model, and at most num_layers = {num_layers}."
            )
        if gate_input not in GATE_INPUTS:
            raise ConfigError(f"gate_input is {gate_input!r}; choose one of {', '.join(GATE_INPUTS)}.")
        if not 0 <= num_moe_blocks <= num_layers:
            raise ConfigError(f"num_moe_blocks is {num_moe_blocks}; give a number from 0 to num_layers = {num_layers}.")
        if routing_tokens not in ROUTING_TOKENS:
            raise ConfigError(f"routing_tokens is {routing_tokens!r}; give one of {', '.join(ROUTING_TOKENS)}.")
        super().__init__(
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=axes_dims_rope,
            zero_cond_t=zero_cond_t,
            use_additional_t_cond=use_additional_t_cond,
            use_layer3d_rope=use_layer3d_rope,
        )
        for index in range(num_layers - num_moe_blocks, num_layers):
            self.transformer_blocks[index] = TagMoETransformerBlock(
                dim=self.inner_dim,
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                num_experts=num_experts,
                top_k=top_k,
                gate=gate,
                gate_hidden=gate_hidden,
                expert_bias=expert_bias,
                zero_cond_t=zero_cond_t,
                gate_input=gate_input,
            )
        for block in self.transformer_blocks[num_layers - num_wide_blocks :] if num_wide_blocks else ():
            dim = self.inner_dim
            block.img_mlp = FeedForward(dim, dim_out=dim, mult=4 * wide_factor, activation_fn="gelu-approximate")

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        img_shapes: list[Any] | None = None,
        guidance: torch.Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        controlnet_block_samples: list[torch.Tensor] | None = None,
        additional_t_cond: torch.Tensor | None = None,
        return_dict: bool = True,
        return_routing: str | None = None,
        target_only: bool = False,
    ) -> TagMoETransformerOutput | tuple[Any, ...]:
        """diffusers' forward, plus the routing when asked.

        hidden_states (B, T, in): target then reference tokens. encoder_hidden_states (B, S, text dim) with its mask
        (B, S), 1 for real tokens. timestep (B,) in [0, 1]. return_routing "stats" gives `RouterStats`, "full" a
        `RoutingTrace`. With return_dict=False: (sample,) or (sample, routing).

        target_only: the sample holds the target's tokens alone, the first of img_shapes. The last block then leaves out
        what cannot reach them: the experts and norms of its reference tokens, and its text MLP. It computes them all
        the same where it is dense, with a step cache, which needs whole outputs, and under context parallelism.

        Raises UsageError for a return_routing that `check_return_routing` refuses, and for a missing or useless input.
        """
        check_return_routing(self, return_routing)
        if timestep is None or img_shapes is None:
            raise UsageError("The transformer needs timestep and img_shapes; pass both.")
        if self.config.use_additional_t_cond and additional_t_cond is None:
            raise UsageError("This transformer has use_additional_t_cond; pass additional_t_cond, one number a sample.")
        if guidance is not None and not takes_guidance(self):
            raise UsageError("This transformer has no layer for a guidance scale; pass guidance=None.")
        hidden_states = self.img_in(hidden_states)
        timestep = timestep.to(hidden_states.dtype)
        modulate_index = None
        if self.zero_cond_t:
            timestep = torch.cat([timestep, timestep * 0], dim=0)
            modulate_index = torch.tensor(
                [
                    [0] * prod(target) + [1] * sum(map(prod, references))
                    for target, *references in (token_grids([sample]) for sample in img_shapes)
                ],
                device=timestep.device,
                dtype=torch.int,
            )

        encoder_hidden_states = self.txt_in(self.txt_norm(encoder_hidden_states))
        text_seq_len, _, encoder_hidden_states_mask = compute_text_seq_len_from_mask(
            encoder_hidden_states, encoder_hidden_states_mask
        )
        if guidance is None:
            temb = self.time_text_embed(timestep, hidden_states, additional_t_cond)
        else:
            guidance = guidance.to(hidden_states.dtype) * 1000
            temb = self.time_text_embed(timestep, guidance, hidden_states, additional_t_cond)
        image_rotary_emb = self.pos_embed(img_shapes, max_txt_seq_len=text_seq_len, device=hidden_states.device)
        if all(isinstance(block.attn.processor, RealRoPEAttnProcessor) for block in self.transformer_blocks):
            image_rotary_emb = real_rotary(image_rotary_emb)

        grids = token_grids(img_shapes)
        target_tokens = prod(grids[0]) if target_only else None
        live_tokens = None if self.is_cache_enabled or is_context_parallel(self) else target_tokens
        counted_L = counted_by_layer(self.config.routing_tokens, grids, self.config.num_moe_blocks)
        routing: list[tuple[torch.Tensor, torch.Tensor]] = []
        for index_block, block in enumerate(self.transformer_blocks):
            inputs: tuple[Any, ...] = (
                hidden_states,
                encoder_hidden_states,
                encoder_hidden_states_mask,
                temb,
                image_rotary_emb,
                attention_kwargs,
                modulate_index,
            )
            is_mixture = isinstance(block, TagMoETransformerBlock)
            asks = return_routing is not None and is_mixture
            is_last = index_block == len(self.transformer_blocks) - 1
            if asks:
                inputs += (return_routing, counted_L[len(routing)] if return_routing == "stats" else None)
            if live_tokens is not None and is_mixture and is_last:
                inputs += (*(() if asks else (None, None)), live_tokens)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                outputs = self._gradient_checkpointing_func(block, *inputs)
            else:
                outputs = block(*inputs)
            encoder_hidden_states, hidden_states = outputs[:2]
            if asks:
                routing.append(outputs[2])

            if controlnet_block_samples is not None:
                interval_control = ceil(len(self.transformer_blocks) / len(controlnet_block_samples))
                residual = controlnet_block_samples[index_block // interval_control]
                hidden_states = hidden_states + residual[:, : hidden_states.shape[1]]

        if self.zero_cond_t:
            temb = temb.chunk(2, dim=0)[0]
        sample = self.proj_out(self.norm_out(hidden_states[:, :live_tokens], temb))[:, :target_tokens]

        gathered = self._gather_routing(return_routing, routing, grids)
        if return_dict:
            return TagMoETransformerOutput(sample=sample, routing=gathered)
        return (sample,) if gathered is None else (sample, gathered)

    def _gather_routing(
        self, return_routing: str | None, routing: list[tuple[torch.Tensor, torch.Tensor]], grids: tuple[Grid, ...]
    ) -> RouterStats | RoutingTrace | None:
        if return_routing is None:
            return None
        first, second = (torch.stack(tensors) for tensors in zip(*routing, strict=True))
        if return_routing == "stats":
            return RouterStats(mean_probs_LBN=first, counts_LBN=second)
        return RoutingTrace(
            scores_LBTN=first, expert_ids_LBTA=second, grids=grids, routing_tokens=self.config.routing_tokens
        )
