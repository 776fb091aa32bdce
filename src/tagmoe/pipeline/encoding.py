"""Encode prompts and pictures as the transformer's tokens, and decode latents to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch
from torch.nn.utils.rnn import pad_sequence

from tagmoe.errors import UsageError
from tagmoe.model.wrapping import unwrapped
from tagmoe.pictures import fit_size, resize_image
from tagmoe.pipeline.apart import SamplesApart
from tagmoe.pipeline.arguments import (
    check_count,
    check_numbers,
    check_prompts,
    check_tensor,
    check_words,
    normal_spelling,
)
from tagmoe.pipeline.seen_pictures import SeenPictures, marks_of, see
from tagmoe.pipeline.tensors import images_to_tensor, nest_images
from tagmoe.sentences import counted

WIDEST_REFERENCE = 16

Text = tuple[torch.Tensor, torch.Tensor]
"""Embeddings (B, S, D) and the mask (B, S) of real tokens."""


class EncodingMixin:
    """A pipeline's encoding and decoding, with its autoencoder, tokenizer and text encoder.

    samples_apart: keeps the bits of a sample independent of the others of its batch, where that is wanted; see
    `tagmoe.model.cpu.batches` for the transformer.
    """

    samples_apart: SamplesApart | None = None
    config: Any
    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    part: Any
    _execution_device: Any

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a side of a latent; that of Qwen-Image, 8, without an autoencoder."""
        return 8 if self.vae is None else 2 ** len(unwrapped(self.vae).temperal_downsample)

    @property
    def patch_size(self) -> int:
        """Latents a side of a token; that of Qwen-Image, 2, without a transformer."""
        return 2 if self.transformer is None else int(unwrapped(self.transformer).config.patch_size)

    @property
    def size_multiple(self) -> int:
        """Pixels a side of a token. Sizes of pictures are multiples of it."""
        return self.vae_scale_factor * self.patch_size

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_mask: torch.Tensor | None = None,
        max_sequence_length: int | None = None,
        image: Any = None,
    ) -> Text:
        """The conditioning of prompts: embeddings (B, S, D), zero where padded, and the mask (B, S) of real tokens.

        Only the tokenizer and the text encoder are needed. The template's tokens before the prompt are dropped, as in
        Qwen-Image (34 of them there). With known words, the spelling is normalised first
        (`tagmoe.pipeline.arguments.normal_spelling`). device: of the result, by default where the pipeline computes.
        num_images_per_prompt: how often each row is repeated. prompt_embeds, with its mask, is taken instead of prompt.
        max_sequence_length: longer prompts are cut to so many tokens, as in diffusers; without it they are refused.
        image: the references, as in a call; a model with a `picture_template` sees them, another one reads the prompt
        alone. Raises UsageError for control tokens, unknown words, too long prompts and pictures wider than 1:16.
        """
        repeats = check_count("num_images_per_prompt", num_images_per_prompt)
        prompts = check_prompts(prompt, prompt_embeds, blank=True)
        references = nest_images(image, len(prompts), is_batch=not isinstance(prompt, str) and len(prompts) > 1)
        prompt_embeds, prompt_embeds_mask = self._text(
            prompts, prompt_embeds, prompt_embeds_mask, max_sequence_length, references
        )
        where = device or self._execution_device
        prompt_embeds = prompt_embeds.repeat_interleave(repeats, dim=0).to(where)
        prompt_embeds_mask = prompt_embeds_mask.repeat_interleave(repeats, dim=0).to(where)
        return prompt_embeds, prompt_embeds_mask

    def _text(
        self,
        prompts: list[str],
        embeds: torch.Tensor | None,
        mask: torch.Tensor | None,
        longest: int | None,
        references: list[list[PIL.Image.Image]],
        kind: str = "",
    ) -> Text:
        """Given embeddings, checked, or those of the prompts beside their references, and their mask.

        They are cut to `longest` tokens. references: one list for each prompt, or one for all of them.
        """
        if longest is not None:
            check_count("max_sequence_length", longest)
        if embeds is None:
            if mask is not None:
                raise UsageError(f"{kind}prompt_embeds_mask is given without {kind}prompt_embeds; give both of them.")
            beside = references * len(prompts) if len(references) == 1 else references
            return self.encode_texts(prompts, beside, longest=longest)
        name, samples = f"{kind}prompt_embeds", len(prompts)
        check_tensor(name, embeds)
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
        known = None if self.transformer is None else self.part("transformer").config.joint_attention_dim
        if embeds.ndim != 3 or len(embeds) != samples or embeds.shape[2] != (known or embeds.shape[2]):
            raise UsageError(
                f"{name} has shape {tuple(embeds.shape)}; give ({samples}, tokens, {known or 'channels'})."
            )
        check_tensor(f"{name}_mask", mask)
        if mask.shape != embeds.shape[:2]:
            raise UsageError(f"{name} has shape {tuple(embeds.shape)} and its mask {tuple(mask.shape)}; let them fit.")
        check_numbers(name, embeds)
        device = self._execution_device
        return embeds[:, :longest].to(device), mask[:, :longest].to(device).bool()

    @torch.no_grad()
    def encode_texts(
        self,
        texts: Sequence[str],
        pictures: Sequence[Sequence[PIL.Image.Image]] | None = None,
        *,
        truncate: bool = False,
        longest: int | None = None,
    ) -> Text:
        """The conditioning of texts beside the RGB references of each: embeddings (B, S, D) and the mask (B, S).

        A model with a `picture_template` sees the pictures, and their tokens stand before the text's; another model
        reads the text alone. truncate: cut a text of more than `max_prompt_tokens` to its first ones. longest: cut text
        and end of the template to so many tokens. Raises UsageError as `encode_prompt` does.
        """
        self.part("tokenizer"), self.part("text_encoder")
        if pictures is None or self.config.picture_template is None:
            pictures = [()] * len(texts)
        seen, counts = self._see([picture for own in pictures for picture in own])
        rows = [
            self._row_ids(text, [next(counts) for _ in own], truncate, longest)
            for text, own in zip(texts, pictures, strict=True)
        ]
        device = self._execution_device
        if self.samples_apart is None:
            return self._encode_ids(rows, device, seen)
        if seen is not None:
            shown = [self._see(list(own))[0] for own in pictures]
            alone = [self._encode_ids([row], device, own) for row, own in zip(rows, shown, strict=True)]
        else:
            # Equal texts, such as the usual negative prompt, are encoded once; those of one length together, because
            # padding is what would change bits.
            of_length: dict[int, dict[tuple[int, ...], tuple[list[int], int]]] = {}
            for row in rows:
                of_length.setdefault(len(row[0]), {})[tuple(row[0])] = row
            known: dict[tuple[int, ...], Text] = {}
            for alike in of_length.values():
                embeds, masks = self._encode_ids(list(alike.values()), device)
                known |= {key: (embeds[i : i + 1], masks[i : i + 1]) for i, key in enumerate(alike)}
            alone = [known[tuple(row)] for row, _ in rows]
        each, real = ([part[0] for part in parts] for parts in zip(*alone, strict=True))
        return pad_sequence(each, batch_first=True), pad_sequence(real, batch_first=True)

    def _encode_ids(self, rows: list[tuple[list[int], int]], device: Any, seen: SeenPictures | None = None) -> Text:
        """The conditioning of token ids, without the first ones of each row, whose number stands beside them."""
        width = max(len(row) for row, _ in rows)
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [padding] * (width - len(row)) for row, _ in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows], device=device)
        options: dict[str, Any] = {}
        if seen is not None:
            options = {
                "pixel_values": seen.patches_PC.to(device, self.text_encoder.dtype),
                "image_grid_thw": seen.grids_N3.to(device),
                # Without it transformers gives the pictures the positions of a text, which the model did not learn.
                "mm_token_type_ids": (ids == unwrapped(self.text_encoder).config.image_token_id).int(),
            }
        hidden = self.text_encoder(
            input_ids=ids,
            attention_mask=mask,
            output_hidden_states=True,
            use_cache=False,
            # The logits are not used. Computing one position instead of all saves a (B, S, vocabulary) tensor.
            logits_to_keep=1,
            **options,
        ).hidden_states[-1]
        kept = [states[start : len(row)] for states, (row, start) in zip(hidden, rows, strict=True)]
        real = [torch.ones(len(states), dtype=torch.bool, device=device) for states in kept]
        return pad_sequence(kept, batch_first=True), pad_sequence(real, batch_first=True)

    def _see(self, pictures: list[PIL.Image.Image]) -> tuple[SeenPictures | None, Iterator[int]]:
        """What the vision tower takes, and the number of tokens of one picture after the other."""
        if not pictures:
            return None, iter(())
        _check_aspects(pictures)
        seen = see(pictures, self.config.picture_area, unwrapped(self.text_encoder).config)
        return seen, iter(seen.tokens)

    def _row_ids(
        self, text: str, picture_tokens: list[int], truncate: bool, longest: int | None
    ) -> tuple[list[int], int]:
        """The token ids of a text beside pictures of so many tokens, and how many of them are dropped.

        The text encoder is causal, so the tokens that are kept do not depend on those that are cut at the end.
        """
        template = self.config.picture_template if picture_tokens else self.config.prompt_template
        before, after = template.split("{}")
        prefix, marks = self._token_ids(before), self._token_ids(marks_of(self.config.picture_mark, picture_tokens))
        words = (self._prompt_ids(text, truncate, longest) + self._token_ids(after))[:longest]
        return prefix + marks + words, len(prefix)

    @torch.no_grad()
    def encode_texts_of_any_words(self, texts: Sequence[str]) -> Text:
        """As `encode_texts`, for texts that are no prompts, whatever the model's known words are."""
        before, after = self.config.prompt_template.split("{}")
        prefix = self._token_ids(before)
        rows = [(prefix + self._token_ids(text + after), len(prefix)) for text in texts]
        return self._encode_ids(rows, self._execution_device)

    def check_prompt(self, prompt: str) -> None:
        """Raise UsageError for what `encode_prompt` refuses: control tokens, unknown words, too many tokens."""
        self._prompt_ids(prompt)

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt and the end of the template have. Raises UsageError as `check_prompt` does."""
        return len(self._prompt_ids(prompt)) + len(self._token_ids(self.config.prompt_template.split("{}")[1]))

    def is_long(self, prompt: str) -> bool:
        """Whether a prompt has more than `max_prompt_tokens` tokens. Raises UsageError for what no prompt may hold."""
        return len(self._allowed_ids(prompt)) > self.config.max_prompt_tokens

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def _prompt_ids(self, text: str, truncate: bool = False, longest: int | None = None) -> list[int]:
        ids = self._allowed_ids(text)[:longest]
        most = self.config.max_prompt_tokens
        if len(ids) > most and not truncate:
            raise UsageError(f"The prompt has {counted(ids, 'token')}; at most {most} are allowed: shorten it.")
        return ids[:most]

    def _allowed_ids(self, text: str) -> list[int]:
        for token in self.part("tokenizer").all_special_tokens:
            if token in text:
                raise UsageError(f"The prompt contains the control token {token!r}; remove it.")
        if self.config.known_words is not None:
            check_words(text, self.config.known_words)
            text = normal_spelling(text)
        return self._token_ids(text)

    @torch.no_grad()
    def encode_images(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised latents (B, z, H/f, W/f), fp32, of RGB pixels (B, 3, H, W) in [-1, 1].

        They are the mode of the autoencoder's distribution, not a sample, so that encoding is deterministic.
        """
        vae = self.part("vae")

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            mode: torch.Tensor = vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
            return mode.squeeze(2).float()

        pixels_BCHW = pixels_BCHW.to(self._execution_device, vae.dtype)
        if self.samples_apart is None:
            latents = encode(pixels_BCHW)
        else:
            latents = self.samples_apart.run("encode", encode, pixels_BCHW, pixels_BCHW[0, 0].numel())
        mean, std = self._latent_statistics(latents.device)
        return (latents - mean) / std

    @torch.no_grad()
    def decode(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """RGB pixels (B, 3, H*f, W*f) in [-1, 1], fp32, of normalised latents (B, z, H, W)."""
        vae = self.part("vae")

        def decode(latents: torch.Tensor) -> torch.Tensor:
            pixels: torch.Tensor = vae.decode(latents.unsqueeze(2)).sample
            return pixels.squeeze(2).float()

        mean, std = self._latent_statistics(latents_BCHW.device)
        latents_BCHW = (latents_BCHW.float() * std + mean).to(vae.dtype)
        if self.samples_apart is None:
            return decode(latents_BCHW)
        pixels = latents_BCHW[0, 0].numel() * self.vae_scale_factor**2
        return self.samples_apart.run("decode", decode, latents_BCHW, pixels)

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
        config = self.part("vae").config
        mean, std = (
            torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std)
        )
        return mean, std

    def _encode_references(
        self, references: list[list[PIL.Image.Image]], area: int
    ) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
        """Reference tokens (samples, T, C), one image after the other, and the token grid of each."""
        _check_aspects([picture for pictures in references for picture in pictures])
        sizes = [[fit_size(*picture.size, area, self.size_multiple) for picture in pictures] for pictures in references]
        if any(other != sizes[0] for other in sizes):
            raise UsageError(
                "The references of this batch have different aspects, and one batch has one shape; "
                "call once for each of them, or crop them alike."
            )
        pixels = (
            images_to_tensor([resize_image(picture, height, width) for picture in column])
            for column, (height, width) in zip(zip(*references, strict=True), sizes[0], strict=True)
        )
        tokens = [self.pack_latents(self.encode_images(one)) for one in pixels]
        return torch.cat(tokens, dim=1), [self._grid(height, width) for height, width in sizes[0]]

    def _grid(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, height // self.size_multiple, width // self.size_multiple


def _check_aspects(pictures: Sequence[PIL.Image.Image]) -> None:
    for picture in pictures:
        if max(picture.size) > WIDEST_REFERENCE * min(picture.size):
            raise UsageError(
                f"A reference is {picture.width}x{picture.height}; at most 1:{WIDEST_REFERENCE} is allowed: crop."
            )
