"""Load the authors' weights as a pipeline: their transformer, with all other components of the base it comes from.

`TagMoEPipeline.from_pretrained("YUXU915/TAG-MoE", base="Qwen/Qwen-Image")` loads them in memory.
`tagmoe convert-release` writes a folder in our layout. It loads without a base and gives the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.model.loading import check_finite
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.sentences import reason_of
from tagmoe.weights.presets import RELEASE
from tagmoe.weights.release import (
    Piece,
    base_folder,
    is_release,
    plan_release,
    read_base_config,
    read_release,
    release_source,
)
from tagmoe.weights.shards import Entry

# diffusers applies these options while it loads a component, but the authors' layout has to be converted first.
NEEDS_CONVERSION = ("quantization_config", "device_map", "variant")


def release_parts(
    source: Any, base: Any, options: Mapping[str, Any], hub: Mapping[str, Any]
) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """The base's folder, the options to load it with the authors' transformer, and the authors' W_tag and H_pred.

    source, base: folders, or names on the hub. options: keyword arguments of `from_pretrained`. Steps, guidance and
    size default to the release's. hub: arguments of `tagmoe.files.hub.local_folder`; a revision is that of the source.
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
    """The transformer's dtype. diffusers takes one for all components, or a dict by component with a "default"."""
    dtype = options.get("dtype", options.get("torch_dtype"))
    if isinstance(dtype, Mapping):
        dtype = dtype.get("transformer", dtype.get("default"))
    return dtype


def explain_release(folder: Path, error: CheckpointError) -> Exception:
    """A clearer error when the folder holds only the authors' transformer, else `error`."""
    if not is_release(folder):
        return error
    return UsageError(
        f"{str(folder)!r} holds the authors' weights, a transformer without the other parts of a pipeline; add "
        'base="Qwen/Qwen-Image" (or its folder), or write a whole folder with `tagmoe convert-release`.'
    )


def load_release(
    source: Path,
    base: Path,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[TagMoETransformer2DModel, dict[str, torch.Tensor]]:
    """The authors' transformer in our layout, in eval mode, and their tag embedding and alignment head.

    source: their folder, or a .safetensors file. base: the pipeline folder it was trained from; only its
    transformer/config.json is read. dtype: by default fp32, as in diffusers. Weights are read one by one from
    safetensors, so that none is held twice. The second result uses the names of `tagmoe.losses.Objective` with three
    head layers, as stored. It is empty where the release has no alignment weights.

    Raises MissingError when a folder does not exist. Raises CheckpointError, naming files or keys, for a pickle, a
    damaged or missing file, numbers that are not finite, and weights that do not fit. Nothing is loaded partially.
    """
    entries = read_release(source)
    plan = plan_release(entries, read_base_config(base), source=str(source))
    with init_empty_weights():
        model = TagMoETransformer2DModel.from_config(plan.config)
    weights = {name: value.to(dtype or torch.float32) for name, value in _read(plan.weights, entries)}
    model.load_state_dict(weights, strict=True, assign=True)
    check_finite(model, str(source))
    return model.eval(), dict(_read(plan.alignment, entries))


def _read(pieces: tuple[Piece, ...], entries: Mapping[str, Entry]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight in our layout, read from the file that holds it."""
    with ExitStack() as stack:
        opened: dict[Path, Any] = {}
        for piece in pieces:
            file = entries[piece.source].file
            try:
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(file, framework="pt"))
                part = opened[file].get_slice(piece.source)
                value = part[:] if piece.rows is None else part[piece.rows[0] : piece.rows[1]]
            except (SafetensorError, OSError) as error:
                reason = reason_of(error)
                raise CheckpointError(f"{str(file)!r} cannot be read ({reason}); copy or download it again.") from None
            yield piece.name, value.T.contiguous() if piece.transposed else value
