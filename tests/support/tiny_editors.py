"""Tiny random edit pipelines of diffusers, one of each class that runs without a download and without torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ControlNetModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    Kandinsky5I2IPipeline,
    Kandinsky5Transformer3DModel,
    LongCatImageEditPipeline,
    LongCatImageTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from support.tiny_model import TEXTS
from tagmoe.pipeline.components import make_text_encoder, train_tokenizer

WORDS = ("<pad>", "<s>", "</s>", "<unk>", *sorted({word for text in TEXTS for word in text.split()}))


def editors() -> dict[str, Any]:
    """A function that builds the pipeline, by the name of its class."""
    builders = {
        "QwenImageEditPipeline": lambda: qwen(QwenImageEditPipeline),
        "QwenImageEditPlusPipeline": lambda: qwen(QwenImageEditPlusPipeline),
        "LongCatImageEditPipeline": longcat,
        "FluxKontextPipeline": flux_kontext,
        "Flux2KleinPipeline": flux2_klein,
        "Flux2KleinKVPipeline": lambda: Flux2KleinKVPipeline(**flux2_klein().components),
        "Kandinsky5I2IPipeline": kandinsky5,
        "StableDiffusionInstructPix2PixPipeline": instruct_pix2pix,
        "StableDiffusionXLInstructPix2PixPipeline": instruct_pix2pix_xl,
    }
    return {name: partial(evaluated, build) for name, build in builders.items()}


def evaluated(build: Callable[[], Any]) -> Any:
    """The pipeline without dropout, as one that was loaded is."""
    pipeline = build()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline


def word_tokenizer(length: int = 16) -> Any:
    """One token a word of TEXTS, with the marks that CLIP and T5 need."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    marks = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), WORDS[:4], strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=length, **marks)


def clip(kind: type = CLIPTextModel, width: int = 32, length: int = 16) -> Any:
    """A text encoder of CLIP."""
    torch.manual_seed(0)
    return kind(
        CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=width, num_hidden_layers=2,
            num_attention_heads=2, projection_dim=width, max_position_embeddings=length,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def autoencoder(channels: int = 4, levels: int = 2, **options: Any) -> Any:
    """An autoencoder of Stable Diffusion. Each level but the first halves the sides."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8,) * levels, norm_num_groups=4, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **options,
    )  # fmt: skip


def unet(channels: int = 8, **options: Any) -> Any:
    """A U-Net that sees noise and picture."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, in_channels=channels, out_channels=4, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **options,
    )  # fmt: skip


def instruct_pix2pix() -> Any:
    """InstructPix2Pix without a safety checker."""
    return StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder(), text_encoder=clip(), tokenizer=word_tokenizer(), unet=unet(cross_attention_dim=32),
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def controlnet() -> Any:
    """Stable Diffusion with a ControlNet."""
    drawer = unet(4, cross_attention_dim=32, sample_size=64)
    return StableDiffusionControlNetPipeline(
        vae=autoencoder(), text_encoder=clip(), tokenizer=word_tokenizer(), unet=drawer,
        controlnet=ControlNetModel.from_unet(drawer, conditioning_embedding_out_channels=(8, 16)),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def inpainting() -> Any:
    """Stable Diffusion that fills a hole; its U-Net sees noise, hole and picture."""
    return StableDiffusionInpaintPipeline(
        vae=autoencoder(), text_encoder=clip(), tokenizer=word_tokenizer(),
        unet=unet(9, cross_attention_dim=32, sample_size=64),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def instruct_pix2pix_xl() -> Any:
    """InstructPix2Pix on Stable Diffusion XL."""
    pooled = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return StableDiffusionXLInstructPix2PixPipeline(
        vae=autoencoder(), text_encoder=clip(width=16), text_encoder_2=clip(CLIPTextModelWithProjection, 16),
        tokenizer=word_tokenizer(), tokenizer_2=word_tokenizer(), scheduler=DDIMScheduler(),
        unet=unet(cross_attention_dim=32, sample_size=32, projection_class_embeddings_input_dim=16 + 6 * 8, **pooled),
    )  # fmt: skip


def flux_kontext() -> Any:
    """FLUX.1 Kontext."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    t5 = T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2, pad_token_id=0)
    )
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder(shift_factor=0.1, scaling_factor=0.5),
        text_encoder=clip(), tokenizer=word_tokenizer(), text_encoder_2=t5, tokenizer_2=word_tokenizer(512),
        transformer=transformer,
    )  # fmt: skip


def flux2_klein() -> Any:
    """FLUX.2 klein."""
    torch.manual_seed(0)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    tokenizer = word_tokenizer(512)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=8,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
        )
    )  # fmt: skip
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=encoder, tokenizer=tokenizer,
        transformer=transformer,
    )  # fmt: skip


def qwen(kind: type) -> Any:
    """Qwen-Image-Edit or its Plus."""
    tokenizer, encoder, processor = qwen_texts()
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, tokenizer=tokenizer, transformer=transformer,
        text_encoder=encoder, processor=processor,
    )  # fmt: skip


def longcat() -> Any:
    """LongCat-Image-Edit."""
    tokenizer, encoder, processor = qwen_texts()
    torch.manual_seed(0)
    transformer = LongCatImageTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return LongCatImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder(16, shift_factor=0.1, scaling_factor=0.5),
        text_encoder=encoder, tokenizer=tokenizer, text_processor=processor, transformer=transformer,
    )  # fmt: skip


def kandinsky5() -> Any:
    """Kandinsky 5.0 for editing, with one more size of pictures than the seven that it knows."""
    _, encoder, processor = qwen_texts()
    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(
        patch_size=(1, 2, 2), in_visual_dim=16, out_visual_dim=16, in_text_dim=16, in_text_dim2=32, time_dim=16,
        model_dim=16, ff_dim=32, num_text_blocks=1, num_visual_blocks=1, axes_dims=(1, 1, 2), visual_cond=True,
        attention_type="regular",
    )  # fmt: skip
    pipeline = Kandinsky5I2IPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder(16, 4, scaling_factor=0.5),
        text_encoder=encoder, tokenizer=processor, text_encoder_2=clip(length=77), tokenizer_2=word_tokenizer(77),
        transformer=transformer,
    )  # fmt: skip
    pipeline.resolutions.append((64, 64))
    return pipeline


def qwen_texts() -> tuple[Any, Any, Any]:
    """Tokenizer, text encoder with a vision tower, and a processor. Qwen's own processor needs torchvision, for videos;
    this one treats pictures alike."""
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer._set_model_specific_special_tokens({"image_token": "<|image_pad|>"})
    pictures = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 4)
    encoder = make_text_encoder(
        tokenizer, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=2, intermediate_size=16
    )
    return tokenizer, encoder, PaddleOCRVLProcessor(image_processor=pictures, tokenizer=tokenizer)
