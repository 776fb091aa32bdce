"""Load a model folder whole or not at all: diffusers only warns about missing weights, and then runs on noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from tagmoe.errors import CheckpointError, MissingError, TagMoEError, UsageError
from tagmoe.files.hub import local_folder
from tagmoe.sentences import LIMIT, cut
from tagmoe.weights.shards import MODEL_FILES

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


class StrictLoadingMixin:
    """`from_pretrained` that refuses a partial or damaged load. Put it before the diffusers model class."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """diffusers' `from_pretrained`, but the weights in the files must be exactly those of the model.

        For a name on the hub (owner/name), the config and the safetensors are downloaded and checked like a folder. A
        pickle is never read. Raises MissingError when the folder or its config is not there. Raises CheckpointError
        when there are no safetensors, a file is damaged, a weight has another shape, or keys are missing or unexpected
        (it lists them).
        """
        wants_info = kwargs.pop("output_loading_info", False)
        subfolder = kwargs.get("subfolder") or ""
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        source = local_folder(
            pretrained_model_name_or_path,
            allow_patterns=[prefix + pattern for pattern in MODEL_FILES],
            **{name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs},
        )
        folder = source / subfolder
        _check_folder(folder)
        # Without this, diffusers would load a pickle where safetensors are missing, and a pickle can run code.
        kwargs["use_safetensors"] = True
        try:
            model, info = super().from_pretrained(str(source), output_loading_info=True, **kwargs)  # type: ignore[misc]
        except TagMoEError:
            raise
        except OSError as error:
            raise CheckpointError(f"The model folder {folder} cannot be read: {first_line(error)}") from error
        except (ValueError, RuntimeError) as error:
            if "expected shape" not in str(error) and "size mismatch" not in str(error):
                raise
            # What follows is advice on how to load them all the same.
            why = str(error).strip().partition(" If you want")[0].rstrip(".,")
            raise CheckpointError(f"The weights in {folder} do not fit its config: {why}.") from error
        missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        if missing or unexpected:
            raise CheckpointError(
                f"The weights in {folder} do not match its config; missing: {', '.join(missing) or 'none'}; "
                f"unexpected: {', '.join(unexpected) or 'none'}."
            )
        check_finite(model, str(folder))
        return (model, info) if wants_info else model

    @classmethod
    def from_single_file(cls, *_: Any, **__: Any) -> Any:
        """Refused. diffusers reads such a file of the dense model only, and drops the scales of 8-bit weights.

        Raises UsageError.
        """
        raise UsageError(
            "A single file cannot be loaded as a mixture; load it with diffusers' "
            "QwenImageTransformer2DModel.from_single_file, save that, and upcycle the folder."
        )


def check_finite(module: nn.Module, source: str) -> None:
    """Raise CheckpointError that names the first weight with a number that is not finite: it would spoil every result.

    Weights that are not on a device yet, and integers of quantised layers, are passed over.
    """
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_meta or not value.is_floating_point() or value.numel() == 0 or value.dtype.itemsize == 1:
            continue
        low, high = torch.aminmax(value.detach())
        if not (low.isfinite() and high.isfinite()):
            raise CheckpointError(
                f"The weight {name!r} of {source} holds numbers that are not finite; copy or download it again."
            )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise MissingError(f"The model folder {folder} has no config.json; give the folder that holds it.")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"The model folder {folder} has no *.safetensors; copy or download its weights again.")
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The weight file {file} is damaged or cut short ({first_line(error)}); copy or download it again."
            ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, without its details."""
    return cut((str(error).strip().splitlines() or [type(error).__name__])[0], 2 * LIMIT)
