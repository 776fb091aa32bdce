"""Joint text-image attention for CPU training and torch.compile: the maths of diffusers, by faster operations.

Three parts of diffusers' own processor are slow there: the norms' backward, complex rotation once compiled, and the
backward of torch's fused 16-bit CPU attention.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers.hooks._helpers import AttentionProcessorRegistry
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0

RotaryTable = tuple[torch.Tensor, torch.Tensor]


def real_rotary(complex_freqs: tuple[torch.Tensor, torch.Tensor]) -> RotaryTable:
    """(image, text) complex frequencies of diffusers' `pos_embed` -> cos and sin of the joint [text, image] sequence.

    Each result is (S, 1, head_dim / 2) fp32, ready to broadcast over heads.
    """
    image_freqs, text_freqs = complex_freqs
    joint = torch.view_as_real(torch.cat([text_freqs, image_freqs]))
    return joint[:, None, :, 0].contiguous(), joint[:, None, :, 1].contiguous()


def rotate(x_BSHE: torch.Tensor, table: RotaryTable) -> torch.Tensor:
    """Rotate the pairs (x_2j, x_2j+1) of every head by their angle, in fp32.

    In eager mode one complex product is 4 times faster than real arithmetic. Under torch.compile only real arithmetic
    can be fused. The compiled result holds the first members of all pairs, then the second ones, which saves a costly
    interleaving. Queries and keys are permuted alike, so their dot products are unchanged.
    """
    cos, sin = table
    pairs = x_BSHE.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        rotated = torch.view_as_complex(pairs) * torch.complex(cos, sin)
        return torch.view_as_real(rotated).flatten(3).to(x_BSHE.dtype)
    even, odd = pairs.unbind(-1)
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1).to(x_BSHE.dtype)


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * w with its backward by hand: 6 passes over the data where autograd makes 14."""

    @staticmethod
    def forward(ctx: Any, x_RE: torch.Tensor, weight_E: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x_RE, dim=-1, keepdim=True)
        scale = torch.rsqrt(norm.square() / x_RE.shape[-1] + eps)
        ctx.save_for_backward(x_RE, weight_E, scale)
        return (x_RE * scale).mul_(weight_E)

    @staticmethod
    def backward(ctx: Any, grad_RE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x_RE, weight_E, scale = ctx.saved_tensors
        product = (x_RE * scale).mul_(grad_RE)
        projection = (product @ weight_E)[..., None] * scale.square() / x_RE.shape[-1]
        grad_x = (grad_RE * weight_E).mul_(scale).addcmul_(x_RE, projection, value=-1)
        return grad_x, product.flatten(0, -2).sum(0), None


def rms_norm(norm: RMSNorm, x_BSHE: torch.Tensor) -> torch.Tensor:
    """diffusers' `RMSNorm` over each head, fast on a CPU: in fp32, its weight times x / sqrt(mean(x^2) + eps)."""
    if torch.compiler.is_compiling() or x_BSHE.device.type != "cpu" or norm.bias is not None:
        y_BSHE: torch.Tensor = norm(x_BSHE)
        return y_BSHE
    with torch.autocast("cpu", enabled=False):
        y_BSHE = _RMSNorm.apply(x_BSHE.float(), norm.weight.float(), norm.eps)
    return y_BSHE


def half_attention(
    query_BSHE: torch.Tensor, key_BSHE: torch.Tensor, value_BSHE: torch.Tensor, mask_B11S: torch.Tensor | None
) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)) v by two matrix products, for 16-bit tensors on a CPU -> (B, S, H, E).

    torch's fused CPU attention takes 12 times its forward to run backward in bf16 (fp32: twice).
    """
    query, key, value = (x.transpose(1, 2) for x in (query_BSHE, key_BSHE, value_BSHE))
    logits_BHSS: torch.Tensor = query @ (key * query.shape[-1] ** -0.5).transpose(-1, -2)
    if mask_B11S is not None:
        logits_BHSS = logits_BHSS.masked_fill(~mask_B11S, float("-inf"))
    return (logits_BHSS.softmax(dim=-1) @ value).transpose(1, 2)


class RealRoPEAttnProcessor:
    """`QwenDoubleStreamAttnProcessor2_0` with `rms_norm`, `rotate` and `half_attention`: the same to rounding.

    Set with `model.set_attn_processor(RealRoPEAttnProcessor())`; the model then passes the table of `real_rotary`,
    computed once a forward, in place of the complex frequencies.
    """

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: RotaryTable | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and text streams (B, T, D), (B, S, D) and the bool text mask (B, S) -> (image, text) outputs.

        `attention_mask` exists because diffusers' Attention always passes it; the joint mask comes from the text mask.
        """
        text_tokens = encoder_hidden_states.shape[1]
        head_dim = attn.inner_dim // attn.heads

        def heads(x: torch.Tensor) -> torch.Tensor:
            split: torch.Tensor = x.unflatten(-1, (-1, head_dim))
            return split

        query = torch.cat(
            [
                rms_norm(attn.norm_added_q, heads(attn.add_q_proj(encoder_hidden_states))),
                rms_norm(attn.norm_q, heads(attn.to_q(hidden_states))),
            ],
            dim=1,
        )
        key = torch.cat(
            [
                rms_norm(attn.norm_added_k, heads(attn.add_k_proj(encoder_hidden_states))),
                rms_norm(attn.norm_k, heads(attn.to_k(hidden_states))),
            ],
            dim=1,
        )
        value = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), heads(attn.to_v(hidden_states))], dim=1)
        if image_rotary_emb is not None:
            query, key = rotate(query, image_rotary_emb), rotate(key, image_rotary_emb)

        mask = None
        if encoder_hidden_states_mask is not None:
            image_mask = encoder_hidden_states_mask.new_ones(hidden_states.shape[:2])
            mask = torch.cat([encoder_hidden_states_mask, image_mask], dim=1)[:, None, None, :]
        # Under autocast the norms' fp32 weights promote queries and keys. Attention runs in the dtype of the values.
        query, key = query.to(value.dtype), key.to(value.dtype)
        if value.device.type == "cpu" and value.dtype in (torch.bfloat16, torch.float16):
            joint = half_attention(query, key, value, mask)
        else:
            joint = dispatch_attention_fn(
                query,
                key,
                value,
                attn_mask=mask,
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            )
        joint = joint.flatten(2, 3).to(query.dtype)
        text_out = attn.to_add_out(joint[:, :text_tokens].contiguous())
        image_out = attn.to_out[0](joint[:, text_tokens:].contiguous())
        return attn.to_out[1](image_out), text_out


# Guidance that skips layers looks a processor up by its exact class.
AttentionProcessorRegistry.register(
    RealRoPEAttnProcessor, replace(AttentionProcessorRegistry.get(QwenDoubleStreamAttnProcessor2_0))
)
