"""Encode prompts and pictures as the transformer's tokens, and decode latents to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch
from torch.nn.utils.rnn import pad_sequence

from tagmoe.errors import UsageError
from tagmoe.pictures import fit_size, resize_image
from tagmoe.pipeline.arguments import check_words, normal_spelling
from tagmoe.pipeline.seen_pictures import SeenPictures, marks_of, see
from tagmoe.pipeline.tensors import images_to_tensor

WIDEST_REFERENCE = 16

Text = tuple[torch.Tensor, torch.Tensor]
"""Embeddings (B, S, D) and the mask (B, S) of real tokens."""


class EncodingMixin:
    """A pipeline's encoding and decoding, with its autoencoder, tokenizer and text encoder."""

    config: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    patch_size: int
    size_multiple: int
    _execution_device: Any

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        *,
        pictures: Sequence[Sequence[PIL.Image.Image]] | None = None,
        truncate: bool = False,
    ) -> Text:
        """The conditioning of prompts: embeddings (B, S, D), zero where padded, and the mask (B, S) of real tokens.

        The template's tokens before the prompt are dropped, as in Qwen-Image (34 of them there). With known words, the
        spelling is normalised first (`tagmoe.pipeline.arguments.normal_spelling`).

        pictures: the references of each prompt. A model with a `picture_template` sees them, and their tokens stand
        before the prompt's; another model reads the prompt alone. truncate: cut a prompt of more than
        `max_prompt_tokens` to its first ones. Raises UsageError for control tokens, unknown words, too long prompts and
        pictures wider than 1:16.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seen_by = pictures if pictures is not None and self.config.picture_template is not None else [()] * len(prompts)
        seen, counts = self._see([picture for row in seen_by for picture in row])
        rows = [
            self._row_ids(text, [next(counts) for _ in own], truncate)
            for text, own in zip(prompts, seen_by, strict=True)
        ]
        longest = max(len(ids) for ids, _ in rows)
        device, padding = self._execution_device, self.tokenizer.pad_token_id
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row, _ in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows], device=device)
        options: dict[str, Any] = {}
        if seen is not None:
            options = {
                "pixel_values": seen.patches_PC.to(device, self.text_encoder.dtype),
                "image_grid_thw": seen.grids_N3.to(device),
                # Without it transformers gives the pictures the positions of a text, which the model did not learn.
                "mm_token_type_ids": (ids == self.text_encoder.config.image_token_id).int(),
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
        texts = [one[start : len(row)] for one, (row, start) in zip(hidden, rows, strict=True)]
        kept = pad_sequence([torch.ones(len(text), dtype=torch.bool, device=device) for text in texts], True)
        return pad_sequence(texts, True), kept

    def _see(self, pictures: list[PIL.Image.Image]) -> tuple[SeenPictures | None, Iterator[int]]:
        """What the vision tower takes, and the number of tokens of one picture after the other."""
        if not pictures:
            return None, iter(())
        _check_aspects(pictures)
        seen = see(pictures, self.config.picture_area, self.text_encoder.config)
        return seen, iter(seen.tokens)

    def _row_ids(self, text: str, tokens: list[int], truncate: bool) -> tuple[list[int], int]:
        """The token ids of a prompt beside pictures of these numbers of tokens, and how many of them are dropped."""
        template = self.config.picture_template if tokens else self.config.prompt_template
        before, after = template.split("{}")
        prefix, marks = self._token_ids(before), self._token_ids(marks_of(self.config.picture_mark, tokens))
        return prefix + marks + self._prompt_ids(text, truncate) + self._token_ids(after), len(prefix)

    def check_prompt(self, prompt: str) -> None:
        """Raise UsageError for what `encode_prompt` refuses: control tokens, unknown words, too many tokens."""
        self._prompt_ids(prompt, truncate=False)

    def is_long(self, prompt: str) -> bool:
        """Whether a prompt has more than `max_prompt_tokens` tokens. Raises UsageError for what no prompt may hold."""
        return len(self._allowed_ids(prompt)) > self.config.max_prompt_tokens

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def _prompt_ids(self, text: str, truncate: bool) -> list[int]:
        ids = self._allowed_ids(text)
        if len(ids) > self.config.max_prompt_tokens and not truncate:
            raise UsageError(
                f"The prompt has {len(ids)} tokens; at most {self.config.max_prompt_tokens} are allowed: shorten it."
            )
        return ids[: self.config.max_prompt_tokens]

    def _allowed_ids(self, text: str) -> list[int]:
        for token in self.tokenizer.all_special_tokens:
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
