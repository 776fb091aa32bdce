"""L_flow, the flow-matching loss of Eq. 5 (section 3.3.4). The paper gives no formula; this is the base model's.

Time runs from data to noise: x_0 is the clean latent at t = 0, and t = 1 is pure noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Density = Literal["uniform", "logit-normal"]


def interpolate(x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t eps (L_flow, section 3.3.4). x0 and noise (B, ...), t_B in [0, 1]; gives x0's dtype."""
    # In fp32: a bf16 t has 8 bits, so the picture would sit at another time than the one the model is told.
    t = t_B.float().view(-1, *[1] * (x0.dim() - 1))
    return ((1 - t) * x0.float() + t * noise.float()).to(x0.dtype)


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """d x_t / d t = eps - x_0, what the model predicts (L_flow, section 3.3.4). Both (B, ...)."""
    return noise - x0


def sample_timesteps(
    batch: int,
    *,
    density: Density = "uniform",
    mean: float = 0.0,
    std: float = 1.0,
    shift: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Training times t_B in [0, 1], fp32: uniform or sigmoid(N(mean, std)), then shifted towards noise.

    The shift is that of Stable Diffusion 3 and Qwen-Image, t' = s t / (1 + (s - 1) t): a number, or one a sample (B,).
    It is exp(mu) in Qwen's words. Raises ValueError for an unknown density or a shift not above 0.
    """
    shift_B = torch.as_tensor(shift, dtype=torch.float32, device=device)
    if not bool((shift_B > 0).all()):
        raise ValueError(f"the timestep shift is {shift}: it must be above 0 (1 leaves the density as it is).")
    if density == "uniform":
        t_B = torch.rand(batch, generator=generator, device=device)
    elif density == "logit-normal":
        t_B = torch.sigmoid(mean + std * torch.randn(batch, generator=generator, device=device))
    else:
        raise ValueError(f"the timestep density is {density!r}: it must be 'uniform' or 'logit-normal'.")
    return shift_B * t_B / (1 + (shift_B - 1) * t_B)


def flow_loss(
    prediction: Tensor, x0: Tensor, noise: Tensor, *, weight_BT: Tensor | None = None, per_sample: bool = False
) -> Tensor:
    """L_flow = mean (prediction - (eps - x_0))^2 (Eq. 5), in fp32. All (B, ...); gives a scalar, or (B,) per sample.

    weight_BT weighs the tokens of inputs (B, T, C), for example those that an edit may change; None: all alike.
    """
    squared = (prediction.float() - velocity_target(x0.float(), noise.float())).square()
    if weight_BT is not None:
        squared = squared * weight_BT.unsqueeze(-1)
    flow_B = squared.flatten(1).mean(dim=1)
    return flow_B if per_sample else flow_B.mean()
