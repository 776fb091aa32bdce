"""The linear autoencoder: what it restores, that folders keep it, and that a pipeline takes it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from support.made_pictures import scene

from tagmoe.errors import UsageError
from tagmoe.pipeline.encoding import EncodingMixin
from tagmoe.pipeline.folder import LIBRARIES
from tagmoe.pipeline.patch_autoencoder import PatchAutoencoder, fit_patches


def pixels_of(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1.0


def psnr(vae: AutoencoderKLQwenImage, picture: np.ndarray) -> float:
    pixels = pixels_of(picture)
    with torch.no_grad():
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    assert back.shape == pixels.shape
    return float(-10 * ((back - pixels) / 2).square().mean().log10())


@pytest.fixture(scope="module")
def vae() -> PatchAutoencoder:
    return fit_patches(scene(64, 64, seed) for seed in range(12))


def test_all_components_restore_everything_and_fewer_the_most(vae) -> None:
    held_out = scene(64, 64, 99)
    rising = [psnr(fit_patches([scene(64, 64, 0)], z_dim=z), held_out) for z in (4, 12, 30)]
    assert rising == sorted(rising)
    assert psnr(fit_patches([scene(64, 64, 0)], z_dim=48), held_out) > 60
    assert psnr(vae, held_out) > rising[0] + 3
    with torch.no_grad():
        latents = vae.encode(pixels_of(held_out)).latent_dist
    assert latents.mode().shape == (1, 16, 1, 16, 16)
    assert float(latents.std.max()) < 1e-5, "it is no random encoder"


def test_it_is_the_projection_on_the_first_components_and_no_other_of_their_number_loses_less(vae) -> None:
    """By NumPy's singular values, and with directions by chance instead of the components."""

    def patches(picture: np.ndarray) -> np.ndarray:
        parts = (picture.astype(np.float64) / 127.5 - 1).reshape(16, 4, 16, 4, 3).transpose(0, 2, 4, 1, 3)
        return parts.reshape(256, 48)

    fitted, held_out = np.concatenate([patches(scene(64, 64, seed)) for seed in range(12)]), patches(scene(64, 64, 99))
    centre = np.repeat(fitted.mean(axis=0).reshape(3, 16).mean(axis=1), 16)
    components = np.linalg.svd(fitted - fitted.mean(axis=0), full_matrices=False)[2][:16]
    chance = np.linalg.qr(np.random.default_rng(0).normal(size=(48, 16)))[0].T

    def loss(directions: np.ndarray) -> float:
        back = ((held_out - centre) @ directions.T @ directions + centre).clip(-1, 1)
        return float(-10 * np.log10(np.mean((back - held_out) ** 2) / 4))

    assert psnr(vae, scene(64, 64, 99)) == pytest.approx(loss(components), abs=0.01)
    assert loss(components) > loss(chance) + 6


def test_latents_are_scaled_by_the_largest_and_their_own_deviation(vae) -> None:
    with torch.no_grad():
        latents = torch.cat([vae.encode(pixels_of(scene(64, 64, seed))).latent_dist.mode() for seed in range(12)])
    scaled = latents.transpose(0, 1).flatten(1).std(dim=1) / torch.tensor(vae.config.latents_std)
    assert float(scaled[0]) == pytest.approx(1.0, abs=0.02)
    assert (scaled.diff() <= 1e-3).all(), "later components weigh less"


def test_a_folder_keeps_it_and_it_stands_for_the_real_class(vae, tmp_path) -> None:
    vae.save_pretrained(tmp_path)
    loaded = PatchAutoencoder.from_pretrained(tmp_path)
    assert isinstance(loaded, AutoencoderKLQwenImage)
    assert importlib.import_module(PatchAutoencoder.__module__).PatchAutoencoder is PatchAutoencoder
    assert PatchAutoencoder.__module__ in LIBRARIES, "the index of a pipeline folder names it so"
    assert psnr(loaded, scene(64, 64, 5)) == pytest.approx(psnr(vae, scene(64, 64, 5)), abs=1e-4)
    holder = EncodingMixin()
    holder.vae = loaded
    assert holder.vae_scale_factor == 4


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UsageError, match="no 49 components"):
        fit_patches([], z_dim=49)
    with pytest.raises(UsageError, match="fewer than their 48 values"):
        fit_patches([scene(16, 16)])
    with pytest.raises(UsageError, match="no whole patches of 4x4"):
        fit_patches([scene(66, 64)])
