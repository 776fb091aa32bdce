"""The first stage trains the Qwen-Image autoencoder on TagWorld pictures (paper 3.1: the pre-trained VAE)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor, nn

from tagmoe.config import AutoencoderConfig, OptimizerConfig
from tagmoe.train.loop import Report
from tagmoe.world import Divide, render, sample
from tagmoe.world.divide import is_kept_for_test, scene_text
from tagmoe.world.scene import LIGHTS, STYLES


def pictures(seed: int, start: int, count: int, divide: Divide = "content") -> Tensor:
    """(count, 3, 1, H, W) in [-1, 1]: one picture of each of `count` consecutive samples.

    It is in turn the source, the target, and the target in a random style and light. The last makes rare styles as
    frequent as common ones, so that they are reconstructed as well.
    """
    chosen = []
    for index in range(start, start + count):
        drawn = sample(seed, index, divide=divide)
        if index % 3 == 0:
            chosen.append(drawn.sources[0] if drawn.sources else drawn.target)
        elif index % 3 == 1:
            chosen.append(drawn.target)
        else:
            style = STYLES[index // 3 % len(STYLES)]
            light = LIGHTS[index // 15 % len(LIGHTS)] if style == "flat" else "day"
            scene = replace(drawn.target_scene, style=style, light=light)
            is_kept = divide == "content" and is_kept_for_test(scene_text(scene))
            chosen.append(drawn.target if is_kept else render(scene))
    return to_tensor(np.stack(chosen))


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, 1, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).unsqueeze(2).float().div_(127.5).sub_(1.0)


class AutoencoderStage:
    """The loss is absolute and squared error, and a small KL term. Noise on the latents makes the decoder robust.

    decoder_only: train only the decoder, on fresh pictures, as a second stage. The latents do not change, so this stage
    may run at any later time, even after a transformer was trained on these latents.
    """

    accumulate = 1

    def __init__(
        self,
        vae: AutoencoderKLQwenImage,
        config: AutoencoderConfig,
        seed: int,
        *,
        decoder_only: bool = False,
        divide: Divide = "content",
    ) -> None:
        self.name = "decoder" if decoder_only else "autoencoder"
        self.vae = vae.train()
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(not decoder_only)
        self.config = config
        self.seed = seed
        self.divide = divide
        self.steps = config.decoder_steps if decoder_only else config.steps
        self._first_picture = config.steps * config.batch if decoder_only else 0
        self.optimizer = OptimizerConfig(name="adamw", lr=config.lr, warmup_steps=50, decay_share=0.5, ema_decay=0.995)
        self.modules: Mapping[str, nn.Module] = {"vae": vae}

    def loss(self, step: int, micro: int) -> tuple[Tensor, Report]:
        """The loss on one batch of pictures that no other step uses."""
        start = self._first_picture + step * self.config.batch
        x = pictures(self.seed, start, self.config.batch, self.divide).to(self.vae.device)
        posterior = self.vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(self.seed + step)).to(x)
        z = posterior.mean + self.config.latent_noise * posterior.mean.detach().float().std() * noise
        difference = self.vae.decode(z).sample.float() - x
        absolute, squared = difference.abs().mean(), difference.square().mean()
        kl = posterior.kl().mean() / z[0].numel()
        terms = {"absolute": absolute, "squared": squared, "kl": kl}
        return absolute + squared + self.config.lambda_kl * kl, {
            name: float(term.detach()) for name, term in terms.items()
        }

    def validate(self, step: int, folder: Path) -> Report:
        """Peak signal to noise ratio on pictures of another seed."""
        x = pictures(self.seed + 1, 0, 64, self.divide).to(self.vae.device)
        restored = self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = (restored - x).square().mean() / 4
        return {"psnr": float(-10 * error.log10())}


@torch.no_grad()
def measure_latents(
    vae: AutoencoderKLQwenImage, seed: int, count: int = 512, divide: Divide = "content"
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every latent channel over `count` pictures, for the model's config."""
    latents = (
        torch.cat(
            [
                vae.encode(pictures(seed, start, 64, divide).to(vae.device)).latent_dist.mode()
                for start in range(0, count, 64)
            ]
        )
        .transpose(0, 1)
        .flatten(1)
    )
    return latents.mean(dim=1).tolist(), latents.std(dim=1).tolist()
