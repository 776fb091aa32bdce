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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import QwenImageTransformer2DModel
from diffusers.utils import BaseOutput, logging
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.errors import CheckpointError, TagMoEError, UsageError
from tagmoe.files.json_files import read_object
from tagmoe.model.loading import HUB_OPTIONS, check_finite
from tagmoe.model.transformer import (
    TagMoETransformer2DModel,
    check_guidance,
    check_return_routing,
    takes_target_only,
)
from tagmoe.model.wrapping import unwrapped
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
    check_variant,
    make_generators,
    rewrite,
)
from tagmoe.pipeline.callback import after_step, check_callback
from tagmoe.pipeline.encoding import EncodingMixin
from tagmoe.pipeline.folder import check_model_folder, pipeline_folder, read_alignment
from tagmoe.pipeline.guidance import first_samples, guidance_input, guide, stack_texts
from tagmoe.pipeline.lora import LoraLoaderMixin
from tagmoe.pipeline.masking import make_masking
from tagmoe.pipeline.protocol import PipelineProtocol, on_one_device
from tagmoe.pipeline.release import explain_release, release_parts
from tagmoe.pipeline.schedule import check_sigmas, set_timesteps, timestep_scale
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


class TagMoEPipeline(PipelineProtocol, EncodingMixin, LoraLoaderMixin):
    """Generate a picture from text, or edit 1..n reference pictures by an instruction.

    Settings that belong to a checkpoint (template, known words, defaults) are saved in its model_index.json.
    picture_template: of prompts beside references, which the text encoder then sees (`tagmoe.pipeline.seen_pictures`);
    None: it reads the prompt alone. picture_mark, picture_area: the mark of a picture in the prompt, and the pixels of
    the picture that is seen. known_words: all words that a model of a small vocabulary was trained on. Prompts with
    other words are refused.
    trained_on: {"pictures": the data set or world, "sizes": [[width, height], ...]}, perhaps with "divide", which says
    what kept TagWorld's test cases from training. A call that is far from what it learned from gives a warning; see
    `tagmoe.pipeline.training_range`.

    A part may be None: see `tagmoe.pipeline.protocol`. Raises UsageError for parts that do not fit together, and for a
    transformer of a variant that this pipeline cannot run.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel | TagMoETransformer2DModel,
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
            vae=None if vae is None else fast_single_frame(vae),
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
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.size_multiple)
        if transformer is None:
            return
        config = unwrapped(transformer).config
        check_variant(config)
        check_guidance(unwrapped(transformer))
        if vae is not None:
            channels = unwrapped(vae).config.z_dim * self.patch_size**2
            if config.in_channels != channels:
                raise UsageError(
                    f"The transformer takes tokens of {config.in_channels} channels but this autoencoder gives "
                    f"{channels}; use parts that were trained together."
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
            missing = check_model_folder(folder, given=kwargs.keys(), variant=kwargs.get("variant"))
        except CheckpointError as error:
            raise explain_release(folder, error) from None
        if base is None:
            kwargs = picture_options(read_object(folder / "model_index.json")) | kwargs
        # Without this, diffusers would load a pickle where safetensors are missing, and a pickle can run code.
        pipeline = super().from_pretrained(str(folder), **(dict.fromkeys(missing) | kwargs | {"use_safetensors": True}))
        for name in ("vae", "text_encoder"):
            if name not in kwargs and name not in missing:
                check_finite(getattr(pipeline, name), str(folder / name))
        pipeline.alignment = alignment if base is not None else read_alignment(folder)
        return pipeline

    @property
    def largest_side(self) -> int:
        """Pixels of the longest side that a call may ask for."""
        return LARGEST_SIDE_FACTOR * int(self.config.default_size)

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """diffusers' progress bar; without a terminal it is off unless configured otherwise."""
        shown = getattr(self, "_progress_bar_config", {})
        if "disable" not in shown:
            self.set_progress_bar_config(**shown, disable=not sys.stderr.isatty())
        return super().progress_bar(iterable, total)

    @torch.no_grad()
    @on_one_device
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
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        max_sequence_length: int | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds_mask: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = ("latents",),
        return_routing: str | None = None,
        rewriter: Rewriter | None = None,
    ) -> TagMoEPipelineOutput | tuple[Any]:
        """Generate (when `image` is None) or edit. Argument names are diffusers' own.

        prompt: a text, or a list of texts for a batch. image: None, one picture, or a list of references for the one
        prompt; with a list of prompts, one picture for all of them, one for each, or one list of references for each.
        `load_image` says what a picture may be. mask_image: one mask, or one for each prompt, white where the first
        reference may change; the result then has that reference's size and its pixels elsewhere
        (`tagmoe.pipeline.masking`; output as "pil" only). negative_prompt: needs guidance. height, width: by default
        the first reference's aspect at the default area. reference_area: pixels of a reference after resizing, by
        default those of the output. true_cfg_scale: guidance, off at 1 or below. seed: image i of the batch gets
        seed + i, or entry i of a list. sigmas: noise levels of the steps, before the scheduler's shift; they replace
        num_inference_steps. guidance_scale: for guidance-distilled models. max_sequence_length: longer prompts are cut
        to so many tokens; without it they are refused. latents: noise tokens (B, T, C). return_routing: "stats" or
        "full". rewriter: (instruction, references) -> the prompt to use.
        Raises UsageError for a bad argument or a missing part, ImageError for a bad picture.
        """
        model, scheduler = self.part("transformer"), self.part("scheduler")
        sigmas = check_sigmas(sigmas)
        steps = check_steps(num_inference_steps if sigmas is None else len(sigmas), self.config, scheduler.config)
        scale = check_scale(true_cfg_scale, self.config)
        guidance_input(model.config, guidance_scale, 1)
        if attention_kwargs is not None and not isinstance(attention_kwargs, dict):
            raise UsageError(f"attention_kwargs is of type {type(attention_kwargs).__name__}; give a dict.")
        repeats = check_count("num_images_per_prompt", num_images_per_prompt)
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}; give one of {', '.join(OUTPUT_TYPES)}.")
        if mask_image is not None and output_type != "pil":
            raise UsageError(f'output_type is {output_type!r}; with mask_image give "pil", as results keep their size.')
        if output_type != "latent" or image is not None:
            self.part("vae")
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        wanted = callback_on_step_end_tensor_inputs or ()
        check_callback(callback_on_step_end, wanted, self._callback_tensor_inputs)
        check_return_routing(model, return_routing)

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
        device, dtype = self._execution_device, model.dtype
        generators, seeds = make_generators(seed, generator, batch)
        grid = self._grid(height, width)
        latents = self._start_latents(latents, batch, grid, generators).to(device)

        length = max_sequence_length
        conditions = [self._text(prompts, prompt_embeds, prompt_embeds_mask, length, references)]
        if scale > 1:
            negatives = check_negatives(negative_prompt, negative_prompt_embeds, samples)
            conditions.append(
                self._text(
                    negatives, negative_prompt_embeds, negative_prompt_embeds_mask, length, references, "negative_"
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
        timesteps = set_timesteps(scheduler, steps, sigmas, latents.shape[1], device)
        levels = timesteps / timestep_scale(scheduler)
        forwards = len(conditions)
        routing: list[Any] | None = None if return_routing is None else []
        options: dict[str, Any] = {"target_only": True} if takes_target_only(model) else {}
        options |= {} if return_routing is None else {"return_routing": return_routing}
        # A stochastic scheduler draws noise in each step. It must come from the call's generators.
        is_random = "generator" in inspect.signature(scheduler.step).parameters
        noise: dict[str, Any] = {"generator": generators} if is_random else {}
        self._interrupt = False
        self._num_timesteps = len(timesteps)
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs or {}
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                if self._interrupt:
                    continue
                self._current_timestep = t
                tokens = latents if reference_tokens is None else torch.cat([latents, reference_tokens], dim=1)
                with model.cache_context("cond_uncond" if forwards == 2 else "cond"):
                    # One forward for both conditions: half the kernel launches, and every weight is read once a step.
                    output = self.transformer(
                        hidden_states=tokens.to(dtype).repeat(forwards, 1, 1),
                        timestep=levels[i].expand(batch * forwards),
                        encoder_hidden_states=embeds.to(dtype),
                        encoder_hidden_states_mask=mask,
                        img_shapes=[grids] * (batch * forwards),
                        guidance=guidance_input(model.config, self._guidance_scale, batch * forwards, device),
                        attention_kwargs=self._attention_kwargs,
                        return_dict=True,
                        **options,
                    )
                velocity = output.sample[:, : latents.shape[1]].float()
                if forwards == 2:
                    velocity = guide(velocity[:batch], velocity[batch:], scale, cfg_rescale)
                if routing is not None:
                    routing.append(first_samples(output.routing, batch))
                latents = scheduler.step(velocity, t, latents, return_dict=False, **noise)[0]
                if masking is not None:
                    latents = masking.blend(latents, float(levels[i + 1]) if i + 1 < len(levels) else 0.0)
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "prompt_embeds": embeds[:batch]}
                    inputs = {name: tensors[name] for name in wanted}
                    changed = after_step(callback_on_step_end(self, i, t, inputs), tensors)
                    latents, embeds = changed["latents"], torch.cat([changed["prompt_embeds"], embeds[batch:]])
                bar.update()

        self._current_timestep = None
        if not latents.isfinite().all():
            raise TagMoEError(
                f"The result holds numbers that are not finite (transformer in {str(dtype)[6:]}), so "
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

    def _start_latents(
        self,
        latents: torch.Tensor | None,
        batch: int,
        grid: tuple[int, int, int],
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        channels, p = self.part("transformer").config.in_channels, self.patch_size
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


# DiffusionPipeline.from_pretrained looks for the class that model_index.json names among diffusers' own. With this it
# opens our folders once tagmoe is imported; W_tag and H_pred (`alignment`) come with our `from_pretrained` only. Its
# tests look for pipelines among those of `diffusers.pipelines`.
diffusers.TagMoEPipeline = diffusers.pipelines.TagMoEPipeline = TagMoEPipeline
