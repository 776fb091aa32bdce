"""Build the components of a TAG-MoE pipeline at tiny size from code, without a download.

None of them is a mock: stock diffusers and transformers classes read a folder that is saved from them. Torchvision is
not needed, because only the processor of Qwen2.5-VL uses it, and the pipeline has no processor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tagmoe.errors import UsageError
from tagmoe.sentences import counted

# The special tokens that Qwen2.5-VL's code and chat templates use, in Qwen's order.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> Qwen2Tokenizer:
    """Byte-level BPE of at most `vocab_size` tokens in all, trained on `texts`; Qwen's special tokens come last.

    Every string can be tokenised (all 256 bytes are in the vocabulary). Raises UsageError for a vocabulary below 264.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UsageError(
            f"vocab_size is {vocab_size}; it must be at least {SMALLEST_VOCABULARY} (256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens)."
        )
    bpe = Tokenizer(models.BPE())
    # Normalise and split as Qwen2Tokenizer does, so that it applies the merges that are learned here.
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocab = dict(trained["vocab"])
    for token in SPECIAL_TOKENS:
        vocab[token] = len(vocab)
    return Qwen2Tokenizer(
        vocab=vocab, merges=list(map(tuple, trained["merges"])), extra_special_tokens=list(SPECIAL_TOKENS[1:])
    )


def make_text_encoder(
    tokenizer: Qwen2Tokenizer,
    *,
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int = 256,
    seed: int = 0,
) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised Qwen2.5-VL of tiny size whose vocabulary and special ids are those of `tokenizer`.

    Input and output embeddings are tied: at this size they would otherwise be most of the file. Raises UsageError when
    `num_heads` does not divide `hidden_size` into even heads.
    """
    head_dim, rest = divmod(hidden_size, num_heads)
    if rest or head_dim % 2:
        raise UsageError(
            f"hidden_size {hidden_size} over {counted(num_heads, 'head')} is no even head size; change one of them."
        )
    half = head_dim // 2
    temporal = half // 4
    height = (half - temporal) // 2
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_kv_heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [temporal, height, half - temporal - height],
            },
            "bos_token_id": special["<|endoftext|>"],
            "eos_token_id": special["<|im_end|>"],
            "pad_token_id": special["<|endoftext|>"],
        },
        vision_config={
            # Only text is encoded (as in the release), so the vision tower is as small as the class allows.
            "depth": 1,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_heads": 1,
            "out_hidden_size": hidden_size,
            "fullatt_block_indexes": [0],
        },
        vocab_size=len(tokenizer),
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config).eval()


def make_autoencoder(
    *,
    base_dim: int = 16,
    z_dim: int = 8,
    dim_mult: Sequence[int] = (1, 2, 4),
    num_res_blocks: int = 1,
    seed: int = 0,
) -> AutoencoderKLQwenImage:
    """A randomly initialised Qwen-Image autoencoder of tiny size: (B, 3, 1, H, W) <-> (B, z_dim, 1, H/4, W/4).

    It has no temporal resampling, because it only gets single frames. The latent means are 0 and the deviations 1
    until they are measured.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKLQwenImage(
            base_dim=base_dim,
            z_dim=z_dim,
            dim_mult=list(dim_mult),
            num_res_blocks=num_res_blocks,
            temperal_downsample=[False] * (len(dim_mult) - 1),
            latents_mean=[0.0] * z_dim,
            latents_std=[1.0] * z_dim,
        ).eval()


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Uniform Euler steps of the flow x_t = (1 - t) x_0 + t eps."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
