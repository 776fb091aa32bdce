"""TagMoEPipeline: text to image, and editing with 1..n references, in one call (paper 3.1; inference of the release).

Differences from diffusers' Qwen-Image pipelines, each a defect that users met: `image=None` generates; a batch of
edits works; references keep their own aspect and are encoded deterministically; guidance costs one forward a step and
needs no negative prompt; the text mask is honoured; the size of a reference and the seed are arguments.

Shapes in names and comments: B images of the batch, S text tokens, T packed image tokens, C channels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import AutoencoderKLQwenImage, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from diffusers.utils import BaseOutput
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.model.loading import HUB_OPTIONS
from tagmoe.pictures import fit_size, resize_image
from tagmoe.pipeline.arguments import (
    LARGEST_SIDE_FACTOR,
    Rewriter,
    check_area,
    check_count,
    check_negatives,
    check_output_size,
    check_prompts,
    check_scale,
    check_steps,
    check_words,
    make_generators,
    rewrite,
)
from tagmoe.pipeline.folder import ALIGNMENT, check_model_folder, pipeline_folder, read_alignment
from tagmoe.pipeline.lora import LoraLoaderMixin
from tagmoe.pipeline.release import explain_release, release_parts
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.pipeline.tensors import images_to_tensor, nest_images

QWEN_IMAGE_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
WIDEST_REFERENCE = 16

Text = tuple[torch.Tensor, torch.Tensor]


@dataclass
class TagMoEPipelineOutput(BaseOutput):
    """images: one per prompt and repetition, prompt by prompt. seeds and prompts (after rewriting): what made each.

    routing: one entry a step, RouterStats or RoutingTrace of the conditional half, when it was asked for.
    """

    images: Any
    seeds: list[int]
    prompts: list[str]
    routing: list[Any] | None = None


class TagMoEPipeline(DiffusionPipeline, LoraLoaderMixin):
    """Generate a picture from text, or edit 1..n reference pictures by an instruction.

    Everything that a checkpoint fixes (template, known words, defaults) is saved in its model_index.json.
    `known_words`: for a model with a small world, the words it was trained on; others are refused, not guessed.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    # W_tag and H_pred of the training that made this model, by the names of `Objective`; drawing does not need them.
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
    ):
        super().__init__()
        if prompt_template.count("{}") != 1:
            raise UsageError(
                f"prompt_template {prompt_template!r} must hold the place of the prompt, {{}}, exactly once."
            )
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
        """Load a folder, or a name on the hub, all or nothing; keyword arguments are those of diffusers.

        base: for the authors' weights ("YUXU915/TAG-MoE"), the pipeline they were trained from ("Qwen/Qwen-Image"),
        which gives all other parts; see `tagmoe.pipeline.release`. `alignment` of the result is kept for analysis.

        Raises MissingError when there is no such folder, CheckpointError (naming the file) when it is incomplete,
        damaged, or its weights do not fit its configs.
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
        # Without this, diffusers falls back to a pickle, which can run code, where safetensors are missing.
        pipeline = super().from_pretrained(str(folder), **(kwargs | {"use_safetensors": True}))
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
        """diffusers' choice of what the constructor gets, without the parts of other Qwen-Image pipelines.

        Those of editing name a `processor`, which is not needed here; the warning about it would help nobody.
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
        """True once `_interrupt` was set (in a callback, or by another thread): the remaining steps are skipped."""
        return self._interrupt

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """diffusers' progress bar, silent where nobody watches (no terminal) unless configured otherwise."""
        shown = getattr(self, "_progress_bar_config", {})
        if "disable" not in shown:
            self.set_progress_bar_config(**shown, disable=not sys.stderr.isatty())
        return super().progress_bar(iterable, total)

    # Text -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> Text:
        """The conditioning of prompts: embeddings (B, S, D), zero where padded, and the mask (B, S) of real tokens.

        The template's tokens before the prompt are dropped, as in Qwen-Image (34 of them there). Raises UsageError for
        control tokens, unknown words and too long prompts.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        before, after = self.config.prompt_template.split("{}")
        prefix, suffix = self._token_ids(before), self._token_ids(after)
        rows = [prefix + self._prompt_ids(text) + suffix for text in prompts]
        longest = max(len(row) for row in rows)
        device = self._execution_device
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        hidden = self.text_encoder(
            input_ids=ids,
            attention_mask=mask,
            output_hidden_states=True,
            use_cache=False,
            # The logits are not used: one position instead of all saves (B, S, vocabulary).
            logits_to_keep=1,
        ).hidden_states[-1]
        kept = mask[:, len(prefix) :].bool()
        return hidden[:, len(prefix) :] * kept.unsqueeze(-1), kept

    def check_prompt(self, prompt: str) -> None:
        """Raise UsageError for what `encode_prompt` refuses: control tokens, unknown words, too many tokens."""
        self._prompt_ids(prompt)

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def _prompt_ids(self, text: str) -> list[int]:
        for token in self.tokenizer.all_special_tokens:
            if token in text:
                raise UsageError(f"The prompt contains the control token {token!r}; remove it.")
        if self.config.known_words is not None:
            check_words(text, self.config.known_words)
        ids = self._token_ids(text)
        if len(ids) > self.config.max_prompt_tokens:
            raise UsageError(
                f"The prompt has {len(ids)} tokens; at most {self.config.max_prompt_tokens} are allowed: shorten it."
            )
        return ids

    # Images -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised latents (B, z, H/f, W/f), fp32, of RGB pixels (B, 3, H, W) in [-1, 1]: the mode, no sample."""
        frames = pixels_BCHW.to(self._execution_device, self.vae.dtype).unsqueeze(2)
        latents = self.vae.encode(frames).latent_dist.mode().squeeze(2).float()
        mean, std = self._latent_statistics(latents.device)
        return (latents - mean) / std

    @torch.no_grad()
    def decode(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """RGB pixels (B, 3, H*f, W*f) in [-1, 1], fp32, of normalised latents (B, z, H, W)."""
        mean, std = self._latent_statistics(latents_BCHW.device)
        latents = (latents_BCHW.float() * std + mean).to(self.vae.dtype)
        return self.vae.decode(latents.unsqueeze(2)).sample.squeeze(2).float()

    def pack_latents(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Image tokens (B, T, z * p * p), row by row, of latents (B, z, h, w); p is the patch size, 2."""
        batch, channels, height, width = latents_BCHW.shape
        p = self.patch_size
        patches = latents_BCHW.reshape(batch, channels, height // p, p, width // p, p)
        return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // p) * (width // p), channels * p * p)

    def unpack_latents(self, tokens_BTC: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Latents (B, z, h, w) of image tokens; `height` and `width` are those of the picture in pixels."""
        batch, _, channels = tokens_BTC.shape
        p = self.patch_size
        rows, columns = height // self.size_multiple, width // self.size_multiple
        patches = tokens_BTC.reshape(batch, rows, columns, channels // (p * p), p, p)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // (p * p), rows * p, columns * p)

    def _latent_statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.vae.config
        mean, std = (
            torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std)
        )
        return mean, std

    def _encode_references(
        self, references: list[list[PIL.Image.Image]], area: int
    ) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
        """Reference tokens (samples, T, C), one image after the other, and the token grid of each."""
        for picture in (picture for pictures in references for picture in pictures):
            if max(picture.size) > WIDEST_REFERENCE * min(picture.size):
                raise UsageError(
                    f"A reference is {picture.width}x{picture.height}; at most 1:{WIDEST_REFERENCE} is allowed: crop."
                )
        sizes = [[fit_size(*picture.size, area, self.size_multiple) for picture in pictures] for pictures in references]
        if any(other != sizes[0] for other in sizes):
            raise UsageError(
                "The references of this batch have different aspects, and one batch has one shape; "
                "call once for each of them, or crop them alike."
            )
        tokens = []
        for index, (height, width) in enumerate(sizes[0]):
            pixels = images_to_tensor([resize_image(pictures[index], height, width) for pictures in references])
            tokens.append(self.pack_latents(self.encode_images(pixels)))
        return torch.cat(tokens, dim=1), [self._grid(height, width) for height, width in sizes[0]]

    def _grid(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, height // self.size_multiple, width // self.size_multiple

    # The call ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        negative_prompt: str | list[str] | None = None,
        *,
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
        """Generate (`image` is None) or edit; argument names are diffusers' own.

        prompt: a text, or a list of texts for a batch. image: None, one picture, or a list of references that belong to
        the one prompt; with a list of prompts, one picture for all or a list of such lists. Pictures: see `load_image`.
        height, width: by default the first reference's aspect at the default area. reference_area: pixels of a
        reference after resizing, by default those of the output. true_cfg_scale: guidance, off at 1 or below.
        seed: image i of the batch gets seed + i, or its own from a list. latents: noise tokens (B, T, C).
        return_routing: "stats" or "full". rewriter: (instruction, references) -> the prompt to use.
        Raises UsageError for a bad argument and ImageError for a bad picture.
        """
        steps = check_steps(num_inference_steps, self.config, self.scheduler.config)
        scale = check_scale(true_cfg_scale, self.config)
        repeats = check_count("num_images_per_prompt", num_images_per_prompt)
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}; give one of {', '.join(OUTPUT_TYPES)}.")
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

        batch = samples * repeats
        device, dtype = self._execution_device, self.transformer.dtype
        generators, seeds = make_generators(seed, generator, batch)
        grid = self._grid(height, width)
        latents = self._start_latents(latents, batch, grid, generators).to(device)

        conditions = [self._text(prompts, prompt_embeds, prompt_embeds_mask, samples, "prompt_embeds")]
        if scale > 1:
            negatives = check_negatives(negative_prompt, negative_prompt_embeds, samples)
            conditions.append(
                self._text(
                    negatives, negative_prompt_embeds, negative_prompt_embeds_mask, samples, "negative_prompt_embeds"
                )
            )
        embeds, mask = _stack_texts(conditions, repeats)
        grids = [grid]
        reference_tokens = None
        if first is not None:
            reference_tokens, reference_grids = self._encode_references(references, area)
            grids += reference_grids
            shared = reference_tokens.shape[0] == 1
            reference_tokens = (
                reference_tokens.expand(batch, -1, -1) if shared else reference_tokens.repeat_interleave(repeats, dim=0)
            )

        timesteps = self._timesteps(steps, latents.shape[1], device)
        forwards = len(conditions)
        routing: list[Any] | None = None if return_routing is None else []
        options = {} if return_routing is None else {"return_routing": return_routing}
        self._interrupt = False
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                if self._interrupt:
                    continue
                tokens = latents if reference_tokens is None else torch.cat([latents, reference_tokens], dim=1)
                with self.transformer.cache_context("cond_uncond" if forwards == 2 else "cond"):
                    # One forward for both halves: half the launches, and every weight is read once a step.
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
                    velocity = _guide(velocity[:batch], velocity[batch:], scale, cfg_rescale)
                if routing is not None:
                    routing.append(_first_samples(output.routing, batch))
                latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    inputs = {"latents": latents} if callback_on_step_end_tensor_inputs else {}
                    latents = (callback_on_step_end(self, i, t, inputs) or {}).get("latents", latents)
                bar.update()

        images: Any = latents
        if output_type != "latent":
            pixels = self.decode(self.unpack_latents(latents, height, width))
            images = self.image_processor.postprocess(pixels, output_type=output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return TagMoEPipelineOutput(
            images=images, seeds=seeds, prompts=[p for p in prompts for _ in range(repeats)], routing=routing
        )

    def _text(
        self, prompts: list[str], embeds: torch.Tensor | None, mask: torch.Tensor | None, samples: int, name: str
    ) -> Text:
        if embeds is None:
            return self.encode_prompt(prompts)
        device = self._execution_device
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
        channels = self.transformer.config.joint_attention_dim
        if embeds.shape != (samples, embeds.shape[1], channels) or mask.shape != embeds.shape[:2]:
            raise UsageError(
                f"{name} has shape {tuple(embeds.shape)} and its mask {tuple(mask.shape)}; give ({samples}, tokens, "
                f"{channels}) and ({samples}, tokens)."
            )
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
            return latents.float()
        # Drawn in fp32 and in diffusers' order, so that a seed means the same noise in every precision, and there too.
        shape = (channels // p**2, grid[1] * p, grid[2] * p)
        noise = [torch.randn(shape, generator=one, device=one.device).cpu() for one in generators]
        return self.pack_latents(torch.stack(noise))

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


# Tensors --------------------------------------------------------------------------------------------------------


def _stack_texts(conditions: list[Text], repeats: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All conditions in one batch of one length, every prompt `repeats` times; no mask when nothing is padded."""
    longest = max(mask.shape[1] for _, mask in conditions)
    embeds, masks = [], []
    for embed, mask in conditions:
        missing = longest - mask.shape[1]
        embeds.append(torch.nn.functional.pad(embed, (0, 0, 0, missing)).repeat_interleave(repeats, dim=0))
        masks.append(torch.nn.functional.pad(mask, (0, missing)).repeat_interleave(repeats, dim=0))
    mask = torch.cat(masks)
    return torch.cat(embeds), None if bool(mask.all()) else mask


def _guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float, rescale: bool) -> torch.Tensor:
    """Classifier-free guidance; with `rescale` every token keeps the length of its conditional prediction (release)."""
    guided = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return guided
    length = guided.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    return guided * (conditional.norm(dim=-1, keepdim=True) / length)


def _first_samples(routing: Any, count: int) -> Any:
    """The routing of the first `count` samples (the batch is dimension 1), on the CPU."""
    values = {field.name: getattr(routing, field.name) for field in fields(routing)}
    return type(routing)(**{k: v[:, :count].cpu() if isinstance(v, torch.Tensor) else v for k, v in values.items()})
