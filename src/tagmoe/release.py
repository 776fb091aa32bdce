"""The authors' weights as a pipeline: their transformer, and all other parts of the base it was trained from.

`TagMoEPipeline.from_pretrained("YUXU915/TAG-MoE", base="Qwen/Qwen-Image")` loads them in memory;
`tagmoe convert-release` writes a folder of ours, which then loads by itself and gives the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.model.release_loading import load_release
from tagmoe.weights.presets import RELEASE
from tagmoe.weights.release import base_folder, is_release, release_source

# What diffusers does to parts while it loads them; the authors' layout has to be converted first.
NEEDS_CONVERSION = ("quantization_config", "device_map", "variant")


def release_parts(
    source: Any, base: Any, options: Mapping[str, Any], hub: Mapping[str, Any]
) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """The base's folder, the options to load it with around the authors' transformer, and their alignment parts.

    source, base: folders, or names on the hub. options: keyword arguments of `from_pretrained`; steps, guidance and
    size default to the release's. hub: those of `tagmoe.files.hub.local_folder`; a revision is that of the source.
    Raises UsageError for options that need a converted folder, and what `local_folder` and `load_release` raise.
    """
    for name in NEEDS_CONVERSION:
        if options.get(name) is not None:
            raise UsageError(
                f"{name} does not work together with base; write a folder with `tagmoe convert-release` and load that."
            )
    if "transformer" in options:
        raise UsageError("Both base and transformer are given; base is for the authors' transformer, give one of them.")
    folder = base_folder(base, **{name: value for name, value in hub.items() if name != "revision"})
    transformer, alignment = load_release(release_source(source, **hub), folder, dtype=_dtype_of_transformer(options))
    defaults = {"default_steps": RELEASE.steps, "default_cfg": RELEASE.cfg, "default_size": RELEASE.square[0]}
    return folder, defaults | dict(options) | {"transformer": transformer}, alignment


def _dtype_of_transformer(options: Mapping[str, Any]) -> torch.dtype | None:
    """diffusers' `dtype`: one for all parts, or a dict by part with a "default"."""
    dtype = options.get("dtype", options.get("torch_dtype"))
    if isinstance(dtype, Mapping):
        dtype = dtype.get("transformer", dtype.get("default"))
    return dtype


def explain_release(folder: Path, error: CheckpointError) -> Exception:
    """A better error where what was loaded as a pipeline is the authors' transformer alone, else `error`."""
    if not is_release(folder):
        return error
    return UsageError(
        f"{str(folder)!r} holds the authors' weights, a transformer without the other parts of a pipeline; add "
        'base="Qwen/Qwen-Image" (or its folder), or write a whole folder with `tagmoe convert-release`.'
    )
