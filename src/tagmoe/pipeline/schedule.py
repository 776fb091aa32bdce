"""The steps of a call: any scheduler of diffusers that follows a flow, with its own sigmas or given ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from tagmoe.errors import UsageError
from tagmoe.pipeline.arguments import is_number


def set_timesteps(
    scheduler: Any, steps: int, sigmas: Sequence[float] | None, tokens: int, device: torch.device
) -> torch.Tensor:
    """Set the steps of a call and return their timesteps, in units of the scheduler's num_train_timesteps.

    sigmas: noise levels before the scheduler's shift; by default even ones, `steps` in number. tokens: of the target
    picture, which decides a dynamic shift. Raises UsageError for a scheduler that does not follow a flow, and for
    sigmas that it does not take.
    """
    check_flow(scheduler)
    config = scheduler.config
    known = inspect.signature(scheduler.set_timesteps).parameters
    options: dict[str, Any] = {}
    if sigmas is not None and "sigmas" not in known:
        raise UsageError(f"{type(scheduler).__name__} takes no sigmas; give num_inference_steps, or another scheduler.")
    if "sigmas" in known:
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps) if sigmas is None else np.array(sigmas, dtype=np.float64)
    else:
        options["num_inference_steps"] = steps
    if config.get("use_dynamic_shifting", False) and "mu" in known:
        options["mu"] = dynamic_shift(config, tokens)
    scheduler.set_timesteps(device=device, **options)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    timesteps: torch.Tensor = scheduler.timesteps
    return timesteps


def dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """mu of a scheduler that shifts by the size of the picture; times are shifted by exp(mu) (Qwen-Image)."""
    mu: float = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    return mu


def check_flow(scheduler: Any) -> None:
    """Raise UsageError for a scheduler that reads the model's velocity as something else: the picture would be noise.

    Schedulers made for flows say no prediction_type. General ones can follow a flow when they are told to.
    """
    config, name = scheduler.config, type(scheduler).__name__
    kind = config.get("prediction_type")
    if kind in (None, "flow_prediction") and config.get("use_flow_sigmas", True):
        return
    if "use_flow_sigmas" in config:
        raise UsageError(
            f'{name} does not follow a flow as it is; make it with prediction_type="flow_prediction" and '
            "use_flow_sigmas=True."
        )
    raise UsageError(f"{name} cannot follow a flow, which is what this model predicts; use a flow-matching scheduler.")


def check_sigmas(sigmas: Any) -> list[float] | None:
    """Sigmas as a list, None without any. Raises UsageError unless they fall strictly, from 1 at most to above 0."""
    if sigmas is None:
        return None
    values = sigmas.tolist() if isinstance(sigmas, np.ndarray | torch.Tensor) else sigmas
    if not isinstance(values, list | tuple) or not values or not all(map(is_number, values)):
        raise UsageError(f"sigmas is {sigmas!r}; give a list of numbers.")
    limits = [1.0 + 1e-6, *values]
    if not all(0 < low < high for high, low in zip(limits, values, strict=False)):
        raise UsageError(f"sigmas is {list(values)}; give numbers above 0 and at most 1, each below the one before.")
    return [float(value) for value in values]


def timestep_scale(scheduler: Any) -> float:
    """What a timestep is divided by to give the noise level in [0, 1] that the transformer takes."""
    scale = float(scheduler.config.get("num_train_timesteps") or 1000)
    return scale if math.isfinite(scale) and scale > 0 else 1000.0
