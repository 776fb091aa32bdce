"""Checkpoints of a stage, in safetensors. Each is written aside and then renamed, so a kill leaves the last one whole.

checkpoints/<stage>/<step, 8 digits>/
    modules.safetensors     what is trained
    ema.safetensors         its exponential moving average
    optimizer.safetensors   "<optimizer>.<parameter>.<name>" of every optimizer
    state.json              step, settings of the run, versions
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tagmoe.errors import CheckpointError
from tagmoe.files.atomic import put_in_place


def flat_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """{"<module>.<parameter>": tensor} of every parameter and buffer of the trained modules."""
    return {
        f"{prefix}.{name}": value for prefix, module in modules.items() for name, value in module.state_dict().items()
    }


def of_module(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one module among those of `flat_parameters`, by the module's own names."""
    return {name.removeprefix(f"{prefix}."): value for name, value in flat.items() if name.startswith(f"{prefix}.")}


@torch.no_grad()
def fill(modules: Mapping[str, nn.Module], flat: Mapping[str, Tensor]) -> None:
    """Copy tensors like those of `flat_parameters` into the modules."""
    for name, value in flat_parameters(modules).items():
        value.copy_(flat[name])


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of every optimizer as flat tensors; numbers become 0-d float64 tensors."""
    return {
        f"{number}.{index}.{name}": torch.as_tensor(value)
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], flat: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; the parameter groups (learning rates) stay as they are now."""
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    modules: Mapping[str, nn.Module],
    ema: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `folder/<step>` atomically, then delete all but the newest `keep`. Returns its path."""
    target = folder / f"{step:08d}"
    partial = folder / f".partial-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in (
        ("modules", flat_parameters(modules)),
        ("ema", ema),
        ("optimizer", optimizer_tensors(optimizers)),
    ):
        save_file(
            {key: value.detach().contiguous().clone() for key, value in tensors.items()},
            partial / f"{name}.safetensors",
        )
    (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1), encoding="utf-8")
    for path in partial.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    put_in_place(partial, target)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a stage, oldest first. Half-written ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and (path / "state.json").is_file())


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """(state, {"modules", "ema", "optimizer"}). Raises CheckpointError naming the damaged file."""
    tensors = {}
    for name in ("modules", "ema", "optimizer"):
        file = path / f"{name}.safetensors"
        try:
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"The checkpoint file {str(file)!r} is damaged or missing; delete the folder {str(path)!r} to resume "
                "from the one before."
            ) from error
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"The checkpoint {str(path)!r} has no readable state.json; delete the folder.") from error
    return state, tensors


def restore_modules(modules: Mapping[str, nn.Module], flat: Mapping[str, Tensor], source: Path) -> None:
    """Copy flat tensors into the modules; every name and shape must match. Raises CheckpointError."""
    for prefix, module in modules.items():
        try:
            module.load_state_dict(of_module(flat, prefix))
        except RuntimeError as error:
            raise CheckpointError(
                f"The checkpoint {str(source)!r} does not fit the settings of this run: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from error
