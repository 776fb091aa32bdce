"""On a CPU: parts of a pipeline that are in memory only while they compute, and are read from their folder again.

A part is a shell: an object of its class whose modules have no numbers (torch's meta device). When it is called, the
modules that its library reads from the folder are put into the shell, and the part that was there before lets go of
its own. The blocks of a transformer can take turns in the same way, in each step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import set_module_tensor_to_device
from safetensors import safe_open
from torch import nn

from tagmoe.errors import UsageError
from tagmoe.files.json_files import read_object
from tagmoe.model.loading import check_finite
from tagmoe.pipeline.folder import class_of_part
from tagmoe.pipeline.memory.sizes import BLOCKS
from tagmoe.weights.shards import Entry, read_entries

Read = Callable[[], nn.Module]
"""Reads a part from its folder, quantised if it is to be."""


class Turns:
    """Parts of which at most one is in memory."""

    def __init__(self) -> None:
        self._there: InTurn | None = None

    def give(self, part: InTurn | None) -> None:
        """Let the part that is there go, unless it is this one, and read this one (None: no part)."""
        if self._there is part:
            return
        if self._there is not None:
            self._there.release()
        self._there = None
        if part is not None:
            part.fill()
            self._there = part


class InTurn(ModelHook):
    """The turn of one part: it begins when the part is called, and ends when another one's begins."""

    def __init__(self, turns: Turns, shell: nn.Module, read: Read) -> None:
        self._turns, self._shell, self._read = turns, shell, read
        self._empty = _inside(shell)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._turns.give(self)
        return args, kwargs

    def fill(self) -> None:
        """Put what is read into the shell."""
        vars(self._shell).update(_inside(self._read()))

    def release(self) -> None:
        """Leave the shell without numbers."""
        vars(self._shell).update(self._empty)


class Alone(ModelHook):
    """Ends the turn of any other part before this module computes."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._turns.give(None)
        return args, kwargs


class FromDisk(ModelHook):
    """Reads the numbers of a block before it computes, and lets go of them after it. entries: by names in the block."""

    def __init__(self, entries: dict[str, Entry], dtype: torch.dtype) -> None:
        self._entries, self._dtype = entries, dtype
        self._checked = False

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        _fill(module, self._entries, self._dtype)
        if not self._checked:
            check_finite(module, str(next(iter(self._entries.values())).file.parent))
            self._checked = True
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        for name in self._entries:
            set_module_tensor_to_device(module, name, "meta")
        return output


def take_turns(pipeline: Any, turns: Turns, reads: dict[str, Read]) -> None:
    """Let shells of a pipeline take turns. reads: by the names of the parts. The autoencoder, which is small, stays."""
    for name, read in reads.items():
        shell = pipeline.part(name)
        add_hook_to_module(shell, InTurn(turns, shell, read))
    add_hook_to_module(pipeline.vae, Alone(turns))
    pipeline.reads_parts_again = True


def blocks_from_disk(transformer: nn.Module, folder: Path, turns: Turns, dtype: torch.dtype) -> None:
    """Give a shell its numbers outside the blocks, and let each block read its own when it computes."""
    if "quantization_config" in read_object(folder / "config.json"):
        raise UsageError(f"Blocks of {str(folder)!r} cannot be read one by one: its weights are packed already.")
    entries = read_entries(folder)
    _fill(transformer, {name: entry for name, entry in entries.items() if not name.startswith(f"{BLOCKS}.")}, dtype)
    add_hook_to_module(transformer, Alone(turns))
    for number, block in enumerate(getattr(transformer, BLOCKS)):
        prefix = f"{BLOCKS}.{number}."
        own = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
        add_hook_to_module(block, FromDisk(own, dtype))


def shell_of(folder: Path, name: str, dtype: torch.dtype) -> nn.Module:
    """A part of the pipeline in `folder` without numbers; what it computes at its start and does not save, it has."""
    part_class = class_of_part(folder, name)
    with init_empty_weights(include_buffers=False):
        if hasattr(part_class, "from_config"):
            shell = part_class.from_config(read_object(folder / name / "config.json"))
        else:
            shell = part_class(part_class.config_class.from_pretrained(folder / name))
    shell = shell.eval().requires_grad_(False)
    for parameter in shell.parameters():
        parameter.data = parameter.data.to(dtype)
    return shell


def _inside(module: nn.Module) -> dict[str, Any]:
    return {name: vars(module)[name] for name in ("_modules", "_parameters", "_buffers")}


def _fill(module: nn.Module, entries: dict[str, Entry], dtype: torch.dtype) -> None:
    """Set the tensors of these names; floating ones in `dtype`."""
    for file in sorted({entry.file for entry in entries.values()}):
        with safe_open(file, "pt") as tensors:
            for name, entry in entries.items():
                if entry.file == file:
                    value = tensors.get_tensor(entry.name)
                    kept = dtype if value.is_floating_point() else None
                    set_module_tensor_to_device(module, name, "cpu", value=value, dtype=kept)
