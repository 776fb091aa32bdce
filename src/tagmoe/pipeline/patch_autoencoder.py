"""A linear autoencoder of small patches, for photographs at small size, in the place of Qwen-Image's.

Each patch of pixels becomes its first principal components, and back. It is fitted in seconds and needs no training.
On held-out photographs it loses far less than a small convolutional autoencoder that was trained on drawn pictures
(docs/photoworld.md); it compresses less, too: 16 channels for 4x4 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import nn

from tagmoe.errors import UsageError

_LOG_VARIANCE = -30.0


class PatchAutoencoder(AutoencoderKLQwenImage):
    """(B, 3, 1, H, W) in [-1, 1] <-> (B, z_dim, 1, H/p, W/p) with p = 2 ** len(temperal_downsample).

    A subclass, so that everything that takes Qwen-Image's autoencoder takes this one. The settings that it has in
    common with it and does not use (base_dim, dim_mult) tell the sizes of its levels.
    """

    # model_index.json names the class by this module, and a folder may only name classes of `tagmoe` itself.
    __module__ = "tagmoe"

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        base_dim: int = 16,
        dim_mult: list[int] = [1, 1, 1],  # noqa: B006
        temperal_downsample: list[bool] = [False, False],  # noqa: B006
        latents_mean: list[float] = [0.0] * 16,
        latents_std: list[float] = [1.0] * 16,
    ) -> None:
        # The parent's own __init__ would build its networks.
        super(AutoencoderKLQwenImage, self).__init__()
        self.z_dim = z_dim
        self.temperal_downsample = temperal_downsample
        self.spatial_compression_ratio = side = 2 ** len(temperal_downsample)
        self.use_slicing = self.use_tiling = False
        self.to_latents = nn.Conv2d(3, z_dim, side, stride=side)
        self.to_pixels = nn.ConvTranspose2d(z_dim, 3, side, stride=side)

    def clear_cache(self) -> None:
        """There is none: it keeps nothing between frames."""

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, frames, *_ = x.shape
        mean = self.to_latents(x.transpose(1, 2).flatten(0, 1))
        both = torch.cat([mean, torch.full_like(mean, _LOG_VARIANCE)], dim=1)
        return both.unflatten(0, (batch, frames)).transpose(1, 2)

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        batch, _, frames, *_ = z.shape
        pixels = self.to_pixels(z.transpose(1, 2).flatten(0, 1)).clamp(-1.0, 1.0)
        pixels = pixels.unflatten(0, (batch, frames)).transpose(1, 2)
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)


def fit_patches(pictures: Iterable[np.ndarray], *, z_dim: int = 16, side: int = 4) -> PatchAutoencoder:
    """The autoencoder whose latents are the principal components of the patches of pictures (H, W, 3) uint8.

    Sides are multiples of `side`, a power of two. The latent statistics are set such that the largest component has the
    deviation 1, and the others lie between their share of it and 1: with 1 each, a component that nobody sees would
    weigh as much in L_flow as the brightness. Raises UsageError where there are fewer components than z_dim.
    """
    levels = side.bit_length() - 1
    size = 3 * side * side
    if z_dim > size or side < 2 or 2**levels != side:
        raise UsageError(f"Patches of {side}x{side} pixels have no {z_dim} components; give a power of two, and fewer.")
    count, total, products = 0, np.zeros(size), np.zeros((size, size))
    for picture in pictures:
        patches = _patches(picture, side)
        count += len(patches)
        total += patches.sum(axis=0)
        products += patches.T @ patches
    if count < size:
        raise UsageError(f"There are {count} patches to fit, fewer than their {size} values; give more pictures.")
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    order = np.argsort(values)[::-1][:z_dim]
    deviation = np.sqrt(np.maximum(values[order], 1e-12))
    scale = np.sqrt(deviation * deviation.max())
    made = PatchAutoencoder(
        z_dim=z_dim,
        dim_mult=[1] * (levels + 1),
        temperal_downsample=[False] * levels,
        latents_mean=[0.0] * z_dim,
        latents_std=scale.tolist(),
    )
    weight = torch.from_numpy(vectors[:, order].T.copy()).float().reshape(z_dim, 3, side, side)
    with torch.no_grad():
        made.to_latents.weight.copy_(weight)
        made.to_pixels.weight.copy_(weight)
        # The bias of a transposed convolution is one value a colour, so the same values are subtracted before.
        colours = mean.reshape(3, -1).mean(axis=1)
        centre = vectors[:, order].T @ colours.repeat(side * side)
        made.to_latents.bias.copy_(-torch.from_numpy(centre).float())
        made.to_pixels.bias.copy_(torch.from_numpy(colours).float())
    return made.eval()


def _patches(picture: np.ndarray, side: int) -> np.ndarray:
    """(N, 3 * side * side) float64 in [-1, 1], channels first."""
    height, width = picture.shape[:2]
    if height % side or width % side:
        raise UsageError(f"A picture of {width}x{height} pixels has no whole patches of {side}x{side}.")
    values = picture.astype(np.float64) / 127.5 - 1.0
    parts = values.reshape(height // side, side, width // side, side, 3).transpose(0, 2, 4, 1, 3)
    return parts.reshape(-1, 3 * side * side)
