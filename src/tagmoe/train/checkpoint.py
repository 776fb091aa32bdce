"""Checkpoints of a stage, in safetensors. Each is written aside and then renamed, so a kill leaves the last one whole.

An old one is renamed before it is deleted, so that a kill leaves no half of it under its own name.

Those of several ranks are in `shared_checkpoint`; either kind is read by any number of ranks.

checkpoints/<stage>/<step, 8 digits>/
    modules.safetensors     what is trained
    ema.safetensors         its exponential moving average
    optimizer.safetensors   "<optimizer>.<parameter>.<name>" of every optimizer
    state.json              step, settings of the run, versions, SHA-256 of the other files and of itself
"""

from __future__ import annotations

import hashlib
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
from tagmoe.train.sharding import local, spread

PARTIAL, OLD = ".partial-", ".old-"


def flat_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """{"<module>.<parameter>": tensor} of every parameter and buffer of the trained modules."""
    return {
        f"{prefix}.{name}": value for prefix, module in modules.items() for name, value in module.state_dict().items()
    }


def local_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """As `flat_parameters`, of sharded modules this rank's part."""
    return {name: local(value) for name, value in flat_parameters(modules).items()}


def of_module(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one module among those of `flat_parameters`, by the module's own names."""
    return {name.removeprefix(f"{prefix}."): value for name, value in flat.items() if name.startswith(f"{prefix}.")}


@torch.no_grad()
def fill(modules: Mapping[str, nn.Module], flat: Mapping[str, Tensor]) -> None:
    """Copy tensors like those of `local_parameters` into the modules."""
    for name, value in local_parameters(modules).items():
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
    """Inverse of `optimizer_tensors`; the parameter groups (learning rates) stay as they are now.

    The tensors are whole. Those of a sharded parameter are sharded as it is.
    """
    for number, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == number:
                like = parameters[int(index)]
                # Of the same rows, those of the moments' scales among them.
                is_like = value.ndim > 0 and value.shape[0] == like.shape[0]
                state.setdefault(int(index), {})[name] = spread(value, like) if is_like else value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    modules: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `folder/<step>` atomically, then delete all but the newest `keep`. Returns its path.

    modules, ema, optimizer: whole tensors by the names of `flat_parameters` and `optimizer_tensors`.
    """
    partial = folder / f"{PARTIAL}{step:08d}"
    remove_leftovers(folder)
    try:
        partial.mkdir(parents=True)
        for name, tensors in (
            ("modules", modules),
            ("ema", ema),
            ("optimizer", optimizer),
        ):
            save_file(
                {key: value.detach().contiguous() for key, value in tensors.items()}, partial / f"{name}.safetensors"
            )
            _to_disk(partial / f"{name}.safetensors")
        sums = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
        return commit(partial, folder, step, state=state, sums=sums, keep=keep)
    except (OSError, SafetensorError):
        # The disk may be full, and the room is needed for the next attempt.
        discard(partial)
        raise


def commit(
    partial: Path, folder: Path, step: int, *, state: Mapping[str, Any], sums: Mapping[str, str], keep: int
) -> Path:
    """Put a folder whose tensors are on the disk in its place, then delete all but the newest `keep`. Returns its path.

    sums: SHA-256 of its files.
    """
    target = folder / f"{step:08d}"
    whole = {"step": step, **state, "sha256": dict(sums)}
    text = json.dumps({**whole, "sha256_of_state": _state_hash(whole)}, indent=1)
    (partial / "state.json").write_text(text, encoding="utf-8")
    _to_disk(partial / "state.json")
    _to_disk(partial)
    if target.exists():
        _remove(target)
    os.replace(partial, target)
    # Without this a loss of power could undo the new name, and leave what is deleted next deleted.
    _to_disk(folder)
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return target


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(partial: Path) -> None:
    """Remove a checkpoint that could not be finished."""
    shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left: a checkpoint that it was writing or deleting."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith((PARTIAL, OLD)) or (path.name.isdigit() and not (path / "state.json").is_file()):
            shutil.rmtree(path, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    old = checkpoint.with_name(f"{OLD}{checkpoint.name}")
    os.replace(checkpoint, old)
    shutil.rmtree(old, ignore_errors=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _state_hash(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a stage, oldest first. Half-written ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and (path / "state.json").is_file())


def load_state(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(state, SHA-256 of the files) of a checkpoint. Raises CheckpointError when its state.json is damaged."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        sums = state.pop("sha256", {})
        own = state.pop("sha256_of_state", None)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The checkpoint {str(path)!r} has no readable state.json; delete the folder.") from error
    if own is not None and own != _state_hash({**state, "sha256": sums}):
        raise damaged(path / "state.json")
    return state, sums


def load_tensors(path: Path, sums: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """{"modules", "ema", "optimizer"} of a checkpoint of one process. Raises CheckpointError for a damaged file."""
    tensors = {}
    for name in ("modules", "ema", "optimizer"):
        file = path / f"{name}.safetensors"
        try:
            if sums and sums.get(file.name) != file_hash(file):
                raise damaged(file)
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise damaged(file) from error
    return tensors


def damaged(file: Path) -> CheckpointError:
    """The error for a file of a checkpoint that is not as it was written."""
    return CheckpointError(
        f"The checkpoint file {str(file)!r} is damaged or missing; delete the folder {str(file.parent)!r} to resume "
        "from the one before."
    )


def restore_modules(modules: Mapping[str, nn.Module], flat: Mapping[str, Tensor], source: Path) -> None:
    """Copy flat tensors into the modules; every name and shape must match. Raises CheckpointError."""
    for prefix, module in modules.items():
        try:
            own = module.state_dict()
            given = of_module(flat, prefix)
            module.load_state_dict({n: spread(v, own[n]) if n in own else v for n, v in given.items()})
        except RuntimeError as error:
            raise CheckpointError(
                f"The checkpoint {str(source)!r} does not fit the settings of this run: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from error
