"""TagMoEPipeline: text to image, and editing with 1..n references, in one call (paper 3.1; inference of the release).

It differs from diffusers' Qwen-Image pipelines where users met defects. `image=None` generates. A batch of edits works.
References keep their own aspect and are encoded deterministically. Guidance costs one forward a step and needs no
negative prompt. The text mask is honoured. The size of a reference and the seed are arguments.

Shapes in names and comments: B images of the batch, S text tokens, T packed image tokens, C channels.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers import AutoencoderKLQwenImage, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from diffusers.utils import BaseOutput, logging
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.errors import CheckpointError, TagMoEError, UsageError
from tagmoe.files.json_files import read_object
from tagmoe.model.loading import HUB_OPTIONS, check_finite
from tagmoe.pipeline.arguments import (
    LARGEST_SIDE_FACTOR,
    Rewriter,
    check_area,
    check_count,
    check_negatives,
    check_numbers,
    check_output_size,
    check_prompts,
    check_scale,
    check_steps,
    make_generators,
    rewrite,
)
from tagmoe.pipeline.encoding import EncodingMixin, Text
from tagmoe.pipeline.folder import ALIGNMENT, check_model_folder, pipeline_folder, read_alignment
from tagmoe.pipeline.guidance import first_samples, guide, stack_texts
from tagmoe.pipeline.lora import LoraLoaderMixin
from tagmoe.pipeline.masking import make_masking
from tagmoe.pipeline.release import explain_release, release_parts
from tagmoe.pipeline.seen_pictures import NUMBERED_MARK, SEEN_AREA, picture_options
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.pipeline.tensors import nest_images
from tagmoe.pipeline.training_range import far_from_training

logger = logging.get_logger(__name__)

QWEN_IMAGE_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class TagMoEPipelineOutput(BaseOutput):
    """images: one for each prompt and repetition, prompt by prompt. seeds, prompts (after rewriting): one an image.

    routing: where asked for, one entry a step: RouterStats or RoutingTrace of the conditional half of the batch.
    """

    images: Any
    seeds: list[int]
    prompts: list[str]
    routing: list[Any] | None = None


class TagMoEPipeline(DiffusionPipeline, EncodingMixin, LoraLoaderMixin):
    """Generate a picture from text, or edit 1..n reference pictures by an instruction.

    Settings that belong to a checkpoint (template, known words, defaults) are saved in its model_index.json.
    picture_template: of prompts beside references, which the text encoder then sees (`tagmoe.pipeline.seen_pictures`);
    None: it reads the prompt alone. picture_mark, picture_area: the mark of a picture in the prompt, and the pixels of
    the picture that is seen. known_words: all words that a model of a small vocabulary was trained on. Prompts with
    other words are refused.
    trained_on: {"pictures": the data set or world, "sizes": [[width, height], ...]}. A call that is far from what it
    learned from gives a warning; see `tagmoe.pipeline.training_range`.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    # W_tag and H_pred that were trained with this model, by their names in `Objective`. Inference does not need them.
    alignment: Mapping[str, torch.Tensor] | None = None

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        vae: AutoencoderKLQwenImage,
        text_encoder: Qwen2_5_VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        prompt_template: str = QWEN_IMAGE_TEMPLATE,
        max_prompt_tokens: int = 1024,
        known_words: Any = None,
        default_steps: int = 30,
        default_cfg: float = 4.0,
        default_size: int = 1024,
        trained_on: Any = None,
        picture_template: str | None = None,
        picture_mark: str = NUMBERED_MARK,
        picture_area: int = SEEN_AREA,
    ):
        super().__init__()
        for name, template in (("prompt_template", prompt_template), ("picture_template", picture_template)):
            if template is not None and template.count("{}") != 1:
                raise UsageError(f"{name} {template!r} must hold the place of the prompt, {{}}, exactly once.")
        self.register_modules(
            transformer=transformer,
            vae=fast_single_frame(vae),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(
            prompt_template=prompt_template,
            max_prompt_tokens=max_prompt_tokens,
            known_words=None if known_words is None else sorted({word.lower() for word in known_words}),
            default_steps=default_steps,
            default_cfg=default_cfg,
            default_size=default_size,
            trained_on=trained_on,
            picture_template=picture_template,
            picture_mark=picture_mark,
            picture_area=picture_area,
        )
        self.vae_scale_factor = 2 ** len(vae.temperal_downsample)
        self.patch_size = transformer.config.patch_size
        self.size_multiple = self.vae_scale_factor * self.patch_size
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.size_multiple)
        self._interrupt = False
        token_channels = vae.config.z_dim * self.patch_size**2
        if transformer.config.in_channels != token_channels:
            raise UsageError(
                f"The transformer takes tokens of {transformer.config.in_channels} channels but this autoencoder gives "
                f"{token_channels}; use parts that were trained together."
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> TagMoEPipeline:
        """Load a folder, or a name on the hub, completely or not at all. Keyword arguments are those of diffusers.

        base: needed for the authors' weights ("YUXU915/TAG-MoE") only. It is the pipeline they were trained from
        ("Qwen/Qwen-Image"), and gives all other components; see `tagmoe.pipeline.release`.
        W_tag and H_pred of the folder become `alignment`, which is for analysis.

        Raises MissingError when the folder does not exist. Raises CheckpointError naming the file when the folder is
        incomplete or damaged, or its weights do not fit its configs.
        """
        source, base = pretrained_model_name_or_path, kwargs.pop("base", None)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        if base is None:
            folder = pipeline_folder(source, **hub)
        else:
            folder, kwargs, alignment = release_parts(source, base, kwargs, hub)
        try:
            check_model_folder(folder, given=kwargs.keys(), variant=kwargs.get("variant"))
        except CheckpointError as error:
            raise explain_release(folder, error) from None
        if base is None:
            kwargs = picture_options(read_object(folder / "model_index.json")) | kwargs
        # Without this, diffusers would load a pickle where safetensors are missing, and a pickle can run code.
        pipeline = super().from_pretrained(str(folder), **(kwargs | {"use_safetensors": True}))
        for name in ("vae", "text_encoder"):
            if name not in kwargs:
                check_finite(getattr(pipeline, name), str(folder / name))
        pipeline.alignment = alignment if base is not None else read_alignment(folder)
        return pipeline

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """diffusers' `save_pretrained`; `alignment` goes into alignment.safetensors beside model_index.json."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.alignment:
            weights = {name: value.contiguous() for name, value in self.alignment.items()}
            save_file(weights, Path(save_directory) / ALIGNMENT, metadata={"format": "pt"})

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """diffusers' choice of arguments for the constructor, without components of other Qwen-Image pipelines.

        Qwen-Image's editing pipelines name a `processor`, which is not needed here. A warning about it would only
        confuse.
        """
        known = cls._get_init_keys(cls)
        ours = {name: value for name, value in config_dict.items() if name in known or name.startswith("_")}
        return super().extract_init_dict(ours, **kwargs)

    @property
    def largest_side(self) -> int:
        """Pixels of the longest side that a call may ask for."""
        return LARGEST_SIDE_FACTOR * int(self.config.default_size)

    @property
    def interrupt(self) -> bool:
        """True once a callback or another thread has set `_interrupt`; then the remaining steps are skipped."""
        return self._interrupt

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """diffusers' progress bar; without a terminal it is off unless configured otherwise."""
        shown = getattr(self, "_progress_bar_config", {})
        if "disable" not in shown:
            self.set_progress_bar_config(**shown, disable=not sys.stderr.isatty())
        return super().progress_bar(iterable, total)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        negative_prompt: str | list[str] | None = None,
        *,
        mask_image: Any = None,
        height: int | None = None,
        width: int | None = None,
        reference_area: int | None = None,
        num_inference_steps: int | None = None,
        true_cfg_scale: float | None = None,
        cfg_rescale: bool = True,
        seed: int | list[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds_mask: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_routing: str | None = None,
        rewriter: Rewriter | None = None,
    ) -> TagMoEPipelineOutput | tuple[Any]:
        """Generate (when `image` is None) or edit. Argument names are diffusers' own.

        prompt: a text, or a list of texts for a batch. image: None, one picture, or a list of references for the one
        prompt; with a list of prompts, one picture for all of them or one list of references for each. `load_image`
        says what a picture may be. mask_image: one mask, or one for each prompt, white where the first reference may
        change; the result then has that reference's size and its pixels elsewhere (`tagmoe.pipeline.masking`; output as
        "pil" only). negative_prompt: needs guidance. height, width: by default the first reference's aspect at the
        default area. reference_area: pixels of a reference after resizing, by default those of the output.
        true_cfg_scale: guidance, off at 1 or below. seed: image i of the batch gets seed + i, or entry i of a list.
        latents: noise tokens (B, T, C). return_routing: "stats" or "full". rewriter: (instruction, references) -> the
        prompt to use.
        Raises UsageError for a bad argument and ImageError for a bad picture.
        """
        steps = check_steps(num_inference_steps, self.config, self.scheduler.config)
        scale = check_scale(true_cfg_scale, self.config)
        repeats = check_count("num_images_per_prompt", num_images_per_prompt)
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}; give one of {', '.join(OUTPUT_TYPES)}.")
        if mask_image is not None and output_type != "pil":
            raise UsageError(f'output_type is {output_type!r}; with mask_image give "pil", as results keep their size.')
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise UsageError(f"A callback cannot get {', '.join(sorted(unknown))}; it can get 'latents'.")
        if return_routing is not None and not getattr(self.transformer.config, "num_moe_blocks", 0):
            raise UsageError(f"return_routing is {return_routing!r} but this model has no mixture blocks; pass None.")

        prompts = check_prompts(prompt, prompt_embeds)
        samples = len(prompts) if prompt_embeds is None else prompt_embeds.shape[0]
        references = nest_images(image, samples, is_batch=not isinstance(prompt, str) and samples > 1)
        if rewriter is not None:
            if prompt_embeds is not None:
                raise UsageError("A rewriter rewrites text; give prompt instead of prompt_embeds.")
            prompts = [rewrite(rewriter, p, references[i % len(references)]) for i, p in enumerate(prompts)]
        first = references[0][0] if references[0] else None
        default_size, multiple = self.config.default_size, self.size_multiple
        height, width = check_output_size(height, width, first, default_size, multiple)
        area = height * width if reference_area is None else check_area(reference_area, default_size, multiple)

        if sentence := far_from_training(self.config, [p for row in references for p in row], (width, height)):
            logger.warning(sentence)
        batch = samples * repeats
        device, dtype = self._execution_device, self.transformer.dtype
        generators, seeds = make_generators(seed, generator, batch)
        grid = self._grid(height, width)
        latents = self._start_latents(latents, batch, grid, generators).to(device)

        seen = [references[i % len(references)] for i in range(samples)]
        conditions = [self._text(prompts, seen, prompt_embeds, prompt_embeds_mask, "prompt_embeds")]
        if scale > 1:
            negatives = check_negatives(negative_prompt, negative_prompt_embeds, samples)
            conditions.append(
                self._text(
                    negatives, seen, negative_prompt_embeds, negative_prompt_embeds_mask, "negative_prompt_embeds"
                )
            )
        elif negative_prompt is not None or negative_prompt_embeds is not None:
            logger.warning("The negative prompt has no effect: true_cfg_scale is %g, so there is no guidance.", scale)
        embeds, mask = stack_texts(conditions, repeats)
        grids, reference_tokens = [grid], None
        if first is not None:
            reference_tokens, reference_grids = self._encode_references(references, area)
            grids += reference_grids
            shared = reference_tokens.shape[0] == 1
            reference_tokens = (
                reference_tokens.expand(batch, -1, -1) if shared else reference_tokens.repeat_interleave(repeats, dim=0)
            )

        masking = None
        if mask_image is not None:
            masking = make_masking(
                mask_image,
                references,
                samples=samples,
                repeats=repeats,
                grid=grid[1:],
                encode=lambda pixels: self.pack_latents(self.encode_images(pixels)),
                noise=latents,
                cell=self.size_multiple,
            )
        timesteps = self._timesteps(steps, latents.shape[1], device)
        forwards = len(conditions)
        routing: list[Any] | None = None if return_routing is None else []
        options = {} if return_routing is None else {"return_routing": return_routing}
        # A stochastic scheduler draws noise in each step. It must come from the call's generators.
        is_random = "generator" in inspect.signature(self.scheduler.step).parameters
        noise: dict[str, Any] = {"generator": generators} if is_random else {}
        self._interrupt = False
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                if self._interrupt:
                    continue
                tokens = latents if reference_tokens is None else torch.cat([latents, reference_tokens], dim=1)
                with self.transformer.cache_context("cond_uncond" if forwards == 2 else "cond"):
                    # One forward for both conditions: half the kernel launches, and every weight is read once a step.
                    output = self.transformer(
                        hidden_states=tokens.to(dtype).repeat(forwards, 1, 1),
                        timestep=(t / 1000).expand(batch * forwards),
                        encoder_hidden_states=embeds.to(dtype),
                        encoder_hidden_states_mask=mask,
                        img_shapes=[grids] * (batch * forwards),
                        return_dict=True,
                        **options,
                    )
                velocity = output.sample[:, : latents.shape[1]].float()
                if forwards == 2:
                    velocity = guide(velocity[:batch], velocity[batch:], scale, cfg_rescale)
                if routing is not None:
                    routing.append(first_samples(output.routing, batch))
                latents = self.scheduler.step(velocity, t, latents, return_dict=False, **noise)[0]
                if masking is not None:
                    latents = masking.blend(latents, float(self.scheduler.sigmas[i + 1]))
                if callback_on_step_end is not None:
                    inputs = {"latents": latents} if callback_on_step_end_tensor_inputs else {}
                    latents = (callback_on_step_end(self, i, t, inputs) or {}).get("latents", latents)
                bar.update()

        if not latents.isfinite().all():
            raise TagMoEError(
                f"The result holds numbers that are not finite (transformer in {str(self.transformer.dtype)[6:]}), so "
                "there is no picture; check the weights and LoRAs, or load the model in bf16 or fp32."
            )
        images: Any = latents
        if output_type != "latent":
            pixels = self.decode(self.unpack_latents(latents, height, width))
            images = self.image_processor.postprocess(pixels, output_type=output_type)
        if masking is not None:
            images = masking.paste(images)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return TagMoEPipelineOutput(
            images=images, seeds=seeds, prompts=[p for p in prompts for _ in range(repeats)], routing=routing
        )

    def _text(
        self,
        prompts: list[str],
        seen: list[list[PIL.Image.Image]],
        embeds: torch.Tensor | None,
        mask: torch.Tensor | None,
        name: str,
    ) -> Text:
        samples = len(seen)
        if embeds is None:
            return self.encode_prompt(prompts, pictures=seen)
        device = self._execution_device
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
        channels = self.transformer.config.joint_attention_dim
        if embeds.shape != (samples, embeds.shape[1], channels) or mask.shape != embeds.shape[:2]:
            raise UsageError(
                f"{name} has shape {tuple(embeds.shape)} and its mask {tuple(mask.shape)}; give ({samples}, tokens, "
                f"{channels}) and ({samples}, tokens)."
            )
        check_numbers(name, embeds)
        return embeds.to(device), mask.to(device).bool()

    def _start_latents(
        self,
        latents: torch.Tensor | None,
        batch: int,
        grid: tuple[int, int, int],
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        channels, p = self.transformer.config.in_channels, self.patch_size
        if latents is not None:
            wanted = (batch, math.prod(grid), channels)
            if tuple(latents.shape) != wanted:
                raise UsageError(f"latents have shape {tuple(latents.shape)}; give {wanted}.")
            check_numbers("latents", latents)
            return latents.float()
        # Drawn in fp32 and in diffusers' order, so that a seed gives the same noise in any precision and in diffusers.
        shape = (channels // p**2, grid[1] * p, grid[2] * p)
        return self.pack_latents(
            torch.stack([torch.randn(shape, generator=one, device=one.device).cpu() for one in generators])
        )

    def _timesteps(self, steps: int, tokens: int, device: torch.device) -> torch.Tensor:
        config = self.scheduler.config
        options = {}
        if config.get("use_dynamic_shifting", False):
            options["mu"] = calculate_shift(
                tokens,
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", 1.15),
            )
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device, **options)
        self.scheduler.set_begin_index(0)
        return self.scheduler.timesteps


# DiffusionPipeline.from_pretrained looks for the class that model_index.json names among diffusers' own. With this it
# opens our folders once tagmoe is imported; W_tag and H_pred (`alignment`) come with our `from_pretrained` only.
diffusers.TagMoEPipeline = TagMoEPipeline
