"""Edit inside a mask only: tokens around it follow the source in every step, and its pixels are put back at the end.

As in diffusers' inpainting, after each step the kept tokens become the source's latents at the noise level of the next
step, so that what is drawn fits what stays. A token is kept if its cell of the picture has no selected pixel. At the
end the result is scaled to the source's size, and every pixel that is not selected is the source's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import load_mask, resize_image
from tagmoe.pipeline.tensors import images_to_tensor


@dataclass(frozen=True)
class Masking:
    """What a batch of B images keeps.

    sources, masks: one an image, of equal size; a mask (L) is 255 where the edit is. edited_BT1: tokens that the edit
    may change. clean_BTC: latents of the sources. noise_BTC: the latents that denoising starts from.
    """

    sources: Sequence[Image.Image]
    masks: Sequence[Image.Image]
    edited_BT1: torch.Tensor
    clean_BTC: torch.Tensor
    noise_BTC: torch.Tensor

    def blend(self, latents_BTC: torch.Tensor, sigma: float) -> torch.Tensor:
        """The latents after a step, with the kept tokens of the source at the noise level `sigma`, 1 to 0."""
        kept = (1 - sigma) * self.clean_BTC + sigma * self.noise_BTC
        return torch.where(self.edited_BT1, latents_BTC, kept)

    def paste(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The results at the sizes of their sources; outside the masks the pixels of the sources."""
        return [
            Image.composite(resize_image(image, source.height, source.width), source, mask)
            for image, source, mask in zip(images, self.sources, self.masks, strict=True)
        ]


def make_masking(
    mask_image: Any,
    references: Sequence[Sequence[Image.Image]],
    *,
    samples: int,
    repeats: int,
    grid: tuple[int, int],
    encode: Callable[[torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    cell: int,
) -> Masking:
    """The masking of `samples` prompts with `repeats` images each.

    mask_image: one mask for all prompts, or a list with one for each; see `load_mask`. references: of each prompt, or
    one list for all. grid: rows and columns of the output's tokens. encode: pixels (B, 3, H, W) to tokens. cell: pixels
    of a token's side. Raises UsageError without references, ImageError for a mask that does not fit its picture.
    """
    if not references[0]:
        raise UsageError("mask_image is given without a picture; a mask needs a picture to keep the rest of.")
    masks = mask_image if isinstance(mask_image, list | tuple) else [mask_image] * samples
    if len(masks) != samples:
        raise UsageError(f"mask_image has {len(masks)} entries for {samples} prompts; give one, or one for each.")
    sources = [references[index % len(references)][0] for index in range(samples)]
    fitted = [fit_mask(load_mask(mask), source) for mask, source in zip(masks, sources, strict=True)]
    rows, columns = grid
    edited = np.stack([_cells(mask, rows, columns) for mask in fitted])
    pixels = images_to_tensor([resize_image(source, rows * cell, columns * cell) for source in sources])
    return Masking(
        [source for source in sources for _ in range(repeats)],
        [mask for mask in fitted for _ in range(repeats)],
        torch.from_numpy(edited).flatten(1).unsqueeze(-1).to(noise.device).repeat_interleave(repeats, dim=0),
        encode(pixels).to(noise.device).repeat_interleave(repeats, dim=0),
        noise,
    )


def fit_mask(mask: Image.Image, source: Image.Image) -> Image.Image:
    """The mask at the size of its picture. One of the same shape is scaled; its edges stay hard.

    Raises ImageError for another shape, by more than a pixel of the mask, and for a mask that selects nothing.
    """
    if mask.getbbox() is None:
        raise ImageError("The mask selects nothing; it must be white where the picture may change.")
    if mask.size == source.size:
        return mask
    wanted = mask.height * source.width / source.height
    if abs(wanted - mask.width) > 1:
        raise ImageError(
            f"The mask is {mask.width}x{mask.height} and its picture {source.width}x{source.height}; give a mask of "
            "the picture's size, or of its shape."
        )
    return mask.resize(source.size, Image.Resampling.NEAREST)


def _cells(mask: Image.Image, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) of bool: the cells with a selected pixel."""
    # In floats, so that one pixel of a large cell counts.
    return np.asarray(mask.convert("F").resize((columns, rows), Image.Resampling.BOX)) > 0
