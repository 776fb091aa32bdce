"""TagMoEPipeline: text to image, and editing with 1..n references, in one call (paper 3.1; inference of the release).

Differences from diffusers' Qwen-Image pipelines, each a defect that users met: `image=None` generates; a batch of
edits works; references keep their own aspect and are encoded deterministically; guidance costs one forward a step and
needs no negative prompt; the text mask is honoured; the size of a reference and the seed are arguments.

Shapes in names and comments: B images of the batch, S text tokens, T packed image tokens, C channels.
"""

from __future__ import annotations

import difflib
import math
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import AutoencoderKLQwenImage, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import QwenImageLoraLoaderMixin
from diffusers.models import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from diffusers.utils import BaseOutput
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.components import check_model_folder, fast_single_frame
from tagmoe.errors import UsageError
from tagmoe.images import fit_size, images_to_tensor, nest_images, resize_image

QWEN_IMAGE_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# The release's presets reach from 1:4 to 4:1; an output that follows its reference stays inside them.
WIDEST_OUTPUT = 4
WIDEST_REFERENCE = 16
LARGEST_SIDE_FACTOR = 4

Text = tuple[torch.Tensor, torch.Tensor]
Rewriter = Callable[[str, list[PIL.Image.Image]], str]


@dataclass
class TagMoEPipelineOutput(BaseOutput):
    """images: one per prompt and repetition, prompt by prompt. seeds and prompts (after rewriting): what made each.

    routing: one entry a step, RouterStats or RoutingTrace of the conditional half, when it was asked for.
    """

    images: Any
    seeds: list[int]
    prompts: list[str]
    routing: list[Any] | None = None


class TagMoEPipeline(DiffusionPipeline, QwenImageLoraLoaderMixin):
    """Generate a picture from text, or edit 1..n reference pictures by an instruction.

    Everything that a checkpoint fixes (template, known words, defaults) is saved in its model_index.json.
    `known_words`: for a model with a small world, the words it was trained on; others are refused, not guessed.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["processor"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        vae: AutoencoderKLQwenImage,
        text_encoder: Qwen2_5_VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        processor: Any = None,
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
            processor=processor,
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
        """Load a local folder, all or nothing; keyword arguments are those of diffusers.

        Raises MissingError when there is no such folder, CheckpointError (naming the file) when it is incomplete,
        damaged, or its weights do not fit its configs.
        """
        folder = Path(pretrained_model_name_or_path).expanduser()
        check_model_folder(folder, given=kwargs.keys(), variant=kwargs.get("variant"))
        return super().from_pretrained(str(folder), **kwargs)

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

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def _prompt_ids(self, text: str) -> list[int]:
        for token in self.tokenizer.all_special_tokens:
            if token in text:
                raise UsageError(f"The prompt contains the control token {token!r}; remove it.")
        if self.config.known_words is not None:
            _check_words(text, self.config.known_words)
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
        steps = self._check_steps(num_inference_steps)
        scale = self._check_scale(true_cfg_scale)
        repeats = _check_count("num_images_per_prompt", num_images_per_prompt)
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}; give one of {', '.join(OUTPUT_TYPES)}.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise UsageError(f"A callback cannot get {', '.join(sorted(unknown))}; it can get 'latents'.")
        if return_routing is not None and not getattr(self.transformer.config, "num_moe_blocks", 0):
            raise UsageError(f"return_routing is {return_routing!r} but this model has no mixture blocks; pass None.")

        prompts = _check_prompts(prompt, prompt_embeds)
        samples = len(prompts) if prompt_embeds is None else prompt_embeds.shape[0]
        references = nest_images(image, samples, is_batch=not isinstance(prompt, str) and samples > 1)
        if rewriter is not None:
            if prompt_embeds is not None:
                raise UsageError("A rewriter rewrites text; give prompt instead of prompt_embeds.")
            prompts = [_rewritten(rewriter, p, references[i % len(references)]) for i, p in enumerate(prompts)]
        first = references[0][0] if references[0] else None
        height, width = self._check_output_size(height, width, first)
        area = height * width if reference_area is None else self._check_area(reference_area)

        batch = samples * repeats
        device, dtype = self._execution_device, self.transformer.dtype
        generators, seeds = _make_generators(seed, generator, batch)
        grid = self._grid(height, width)
        latents = self._start_latents(latents, batch, grid, generators).to(device)

        conditions = [self._text(prompts, prompt_embeds, prompt_embeds_mask, samples, "prompt_embeds")]
        if scale > 1:
            negatives = _check_negatives(negative_prompt, negative_prompt_embeds, samples)
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

    # Checks -----------------------------------------------------------------------------------------------------

    def _check_steps(self, steps: int | None) -> int:
        steps = _check_count("num_inference_steps", self.config.default_steps if steps is None else steps)
        if steps == 1 and self.scheduler.config.get("shift_terminal"):
            # Stretching a schedule of one step to its end divides zero by zero.
            raise UsageError("num_inference_steps is 1; this scheduler (shift_terminal) needs at least 2.")
        return steps

    def _check_scale(self, scale: float | None) -> float:
        scale = self.config.default_cfg if scale is None else scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
            raise UsageError(f"true_cfg_scale is {scale!r}; give a finite number, 0 or more (1 or less: no guidance).")
        return float(scale)

    def _check_area(self, area: int) -> int:
        largest = (LARGEST_SIDE_FACTOR * self.config.default_size) ** 2
        if not _is_whole(area) or not self.size_multiple**2 <= area <= largest:
            raise UsageError(
                f"reference_area is {area!r}; give a number of pixels, {self.size_multiple**2} to {largest}."
            )
        return area

    def _check_output_size(
        self, height: int | None, width: int | None, first: PIL.Image.Image | None
    ) -> tuple[int, int]:
        default, multiple = self.config.default_size, self.size_multiple
        if height is None and width is None:
            if first is None:
                return default, default
            across, down = first.size
            across, down = min(across, WIDEST_OUTPUT * down), min(down, WIDEST_OUTPUT * across)
            return fit_size(across, down, default**2, multiple)
        if height is None or width is None:
            raise UsageError(f"height is {height} and width is {width}; give both of them or neither.")
        largest = LARGEST_SIDE_FACTOR * default
        for name, side in (("height", height), ("width", width)):
            if not _is_whole(side) or not multiple <= side <= largest or side % multiple:
                raise UsageError(f"{name} is {side!r}; give a multiple of {multiple} from {multiple} to {largest}.")
        return height, width


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_count(name: str, value: Any) -> int:
    if not _is_whole(value) or value < 1:
        raise UsageError(f"{name} is {value!r}; give a whole number, 1 or more.")
    return int(value)


def _check_prompts(prompt: Any, prompt_embeds: torch.Tensor | None) -> list[str]:
    if prompt_embeds is not None:
        if prompt is not None:
            raise UsageError("Both prompt and prompt_embeds are given; give one of them.")
        return [""] * prompt_embeds.shape[0]
    if prompt is None:
        raise UsageError("No prompt is given; say what to draw or what to change.")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        raise UsageError(f"prompt is of type {type(prompt).__name__}; give a text or a list of texts.")
    if not prompts or not all(text.strip() for text in prompts):
        raise UsageError("The prompt is empty; say what to draw or what to change.")
    return list(prompts)


def _check_negatives(negative: Any, embeds: torch.Tensor | None, samples: int) -> list[str]:
    if embeds is not None and negative is not None:
        raise UsageError("Both negative_prompt and negative_prompt_embeds are given; give one of them.")
    texts = [negative] * samples if negative is None or isinstance(negative, str) else list(negative)
    if len(texts) != samples or not all(text is None or isinstance(text, str) for text in texts):
        raise UsageError(
            f"negative_prompt has {len(texts)} entries for {samples} prompts; give one text, or one for each."
        )
    # The release sends the empty negative prompt as one space.
    return [text or " " for text in texts]


def _check_words(text: str, known_words: Sequence[str]) -> None:
    unknown = [word for word in dict.fromkeys(split_words(text)) if word not in set(known_words)]
    if not unknown:
        return
    hints = []
    for word in unknown:
        close = difflib.get_close_matches(word, known_words, n=1)
        hints.append(f"{word!r} (did you mean {close[0]!r}?)" if close else repr(word))
    raise UsageError(
        f"This model was trained on a vocabulary of {len(known_words)} words and does not know {', '.join(hints)}; "
        "use other words."
    )


def split_words(text: str) -> list[str]:
    """The lower-case words of a prompt, as `known_words` counts them: letters, digits and inner apostrophes."""
    return re.findall(r"\w+(?:'\w+)*", text.lower())


def _make_generators(seed: Any, generator: Any, batch: int) -> tuple[list[torch.Generator], list[int]]:
    if generator is not None:
        if seed is not None:
            raise UsageError("Both seed and generator are given; give one of them.")
        generators = list(generator) if isinstance(generator, list | tuple) else [generator] * batch
        if len(generators) != batch or not all(isinstance(one, torch.Generator) for one in generators):
            raise UsageError(
                f"generator has {len(generators)} entries for {batch} images; give one, or one for each image."
            )
        return generators, [one.initial_seed() for one in generators]
    if seed is None:
        seeds = [secrets.randbelow(2**31) for _ in range(batch)]
    elif isinstance(seed, list | tuple):
        seeds = list(seed)
    else:
        seeds = [seed + i for i in range(batch)] if _is_whole(seed) else [seed]
    for one in seeds:
        if not _is_whole(one) or not 0 <= one < 2**63:
            raise UsageError(f"seed is {one!r}; give a whole number from 0 to 2^63 - 1, or a list of them.")
    if len(seeds) != batch:
        raise UsageError(f"seed has {len(seeds)} entries for {batch} images; give one number, or one for each image.")
    return [torch.Generator().manual_seed(int(one)) for one in seeds], [int(one) for one in seeds]


def _rewritten(rewriter: Rewriter, instruction: str, references: list[PIL.Image.Image]) -> str:
    text = rewriter(instruction, references)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"The rewriter answered {text!r} to {instruction!r}; it must answer with a text.")
    return text


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
