"""Run the Qwen-Image autoencoder faster on single pictures: 2-D convolutions replace its 3-D ones for video."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageRMS_norm


class SingleFrameConv3d(QwenImageCausalConv3d):
    """A causal 3-D convolution that runs a single first frame as a 2-D convolution with the last temporal tap.

    This is exact, because the earlier taps only multiply the zero padding before the first frame.
    """

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        if cache_x is not None or x.shape[2] != 1 or self._padding[4] != self.kernel_size[0] - 1:
            return super().forward(x, cache_x)
        left, _, top, _, _, _ = self._padding
        frame = F.conv2d(x.squeeze(2), self.weight[:, :, -1], self.bias, stride=self.stride[1:], padding=(top, left))
        return frame.unsqueeze(2)


class FusedRMSNorm(QwenImageRMS_norm):
    """The same normalisation in one pass and without casts, because it takes most of a small autoencoder's time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inverse_norm = x.square().sum(dim=1 if self.channel_first else -1, keepdim=True).clamp_min(1e-24).rsqrt()
        return x * inverse_norm * (self.scale * self.gamma).to(x.dtype) + self.bias


def fast_single_frame(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Make `vae` run single frames with 2-D convolutions. Parameters, config and saved files stay as they are.

    It changes the classes of the convolutions in place and returns the same autoencoder. Videos still work.
    """
    for module in vae.modules():
        if type(module) is QwenImageCausalConv3d:
            module.__class__ = SingleFrameConv3d
        elif type(module) is QwenImageRMS_norm:
            module.__class__ = FusedRMSNorm
    return vae
