"""Checkpoints of a stage whose weights several ranks share, by torch.distributed.checkpoint (DCP), in safetensors.

Every rank writes its own parts, and any number of ranks reads them, a single one too.

checkpoints/<stage>/<step, 8 digits>/
    shard-<rank + 1>-model-<file>-of-<files>.safetensors
                            "<modules, ema or optimizer>.<name>": parts of a rank, and in the header where they lie
    state.json              as beside the files of one process (`checkpoint`)

DCP's own index is a pickle, so its writer and reader of safetensors are used, which need none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, empty

from tagmoe.errors import CheckpointError
from tagmoe.train.checkpoint import (
    PARTIAL,
    commit,
    damaged,
    discard,
    file_hash,
    flat_parameters,
    remove_leftovers,
    restore_optimizers,
)
from tagmoe.train.ranks import Ranks

T = TypeVar("T")
FILE_BYTES = 2**29
"""Bytes of a rank's parts that make a file: they are in memory twice while it is written."""
PARTS = "shard-*.safetensors"


def is_shared(path: Path) -> bool:
    """Whether a checkpoint was written by several ranks."""
    return any(path.glob(PARTS))


def staged(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the host of this rank's parts of these tensors, which are sharded as those in `like`."""
    return {
        name: _as_sharded(_own(tensor).to("cpu", copy=True).contiguous(), tensor, like[name])
        for name, tensor in tensors.items()
    }


def _own(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _as_sharded(part: Tensor, tensor: Tensor, like: Tensor) -> Tensor:
    """The part as a sharded tensor, also where the part is on the host and the other parts are on GPUs."""
    found = tensor if isinstance(tensor, DTensor) else like
    return DTensor(part, found._spec, requires_grad=False) if isinstance(found, DTensor) else part


def save_parts(
    folder: Path, step: int, tensors: Mapping[str, Tensor], *, state: Mapping[str, Any], keep: int, ranks: Ranks
) -> None:
    """Write `folder/<step>`, each rank its parts; rank 0 puts it in place once all of it is on the disk.

    tensors: what `staged` gives, by "<modules, ema or optimizer>.<name>". Raises in all ranks what fails in one.
    """
    partial = folder / f"{PARTIAL}{step:08d}"

    def begin() -> None:
        if ranks.is_first:
            remove_leftovers(folder)
            partial.mkdir(parents=True)

    def put_in_place() -> None:
        if ranks.is_first:
            commit(partial, folder, step, state=state, sums={n: s for one in sums for n, s in one.items()}, keep=keep)

    try:
        agreed(begin, ranks)
        writer = HuggingFaceStorageWriter(str(partial), _files(tensors, ranks), save_distributed=True)
        _of_dcp(lambda: dcp.save(dict(tensors), storage_writer=writer, process_group=ranks.saving))
        own = f"shard-{ranks.rank + 1:05d}-*.safetensors"
        sums = agreed(lambda: {path.name: file_hash(path) for path in sorted(partial.glob(own))}, ranks)
        agreed(put_in_place, ranks)
    except Exception:
        # The disk may be full, and the room is needed for the next attempt.
        if ranks.is_first:
            discard(partial)
        raise


def _files(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, int]:
    """The number of the file, from 1, of each tensor: the same in all ranks."""
    numbers, filled = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + filled // (FILE_BYTES * ranks.count)
        filled += tensor.numel() * tensor.element_size()
    return numbers


def agreed(work: Callable[[], T], ranks: Ranks) -> list[T]:
    """What the work of each rank gives, in every rank. Raises in all of them the first error of any."""
    try:
        mine: tuple[T | None, Exception | None] = work(), None
    except OSError as error:
        mine = None, OSError(error.errno, error.strerror, error.filename)
    except Exception as error:
        mine = None, CheckpointError(str(error))
    held: list[Any] = [mine]
    if not ranks.is_alone:
        held = [None] * ranks.count
        dist.all_gather_object(held, mine, group=ranks.saving)
    for _, wrong in held:
        if wrong is not None:
            raise wrong
    return [value for value, _ in held]


def _of_dcp(work: Callable[[], Any]) -> None:
    """Let DCP do it; raises the first rank's own error instead of DCP's, which holds all their tracebacks."""
    try:
        work()
    except CheckpointException as failed:
        wrong = failed.failures[min(failed.failures)][0]
        raise wrong if isinstance(wrong, Exception) else CheckpointError(str(wrong)) from failed


def check_parts(path: Path, sums: Mapping[str, str], ranks: Ranks) -> None:
    """Raise CheckpointError in all ranks for a file that is damaged or missing. Each rank reads some of the files."""

    def check() -> None:
        for name in sorted(sums)[ranks.rank :: ranks.count]:
            try:
                whole = file_hash(path / name) == sums[name]
            except OSError:
                whole = False
            if not whole:
                raise damaged(path / name)

    agreed(check, ranks)


def load_parts(
    path: Path,
    modules: Mapping[str, nn.Module],
    ema: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    ranks: Ranks,
) -> None:
    """Read this rank's parts of a checkpoint into the modules, the average and the optimizers.

    Raises CheckpointError for tensors that the stage does not have, or has in another shape.
    """
    reader = HuggingFaceStorageReader(str(path))
    found = reader.read_metadata().state_dict_metadata
    like = flat_parameters(modules)
    wanted = {f"modules.{name}": value for name, value in like.items()}
    wanted |= {f"ema.{name}": _as_sharded(value, value, like[name]) for name, value in ema.items()}
    states = {}
    for name, entry in found.items():
        if name.startswith("optimizer."):
            assert isinstance(entry, TensorStorageMetadata)
            states[name.removeprefix("optimizer.")] = _state_like(name, entry, optimizers, path)
    wanted |= {f"optimizer.{name}": value for name, value in states.items()}
    for name in sorted(wanted.keys() ^ found.keys()):
        raise _misfit(path, f"{name} is in one of the two and not in the other")
    for name, tensor in wanted.items():
        entry = found[name]
        if isinstance(entry, TensorStorageMetadata) and entry.size != tensor.shape:
            raise _misfit(path, f"{name} has the shape {tuple(entry.size)}, not {tuple(tensor.shape)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
        _of_dcp(lambda: dcp.load(wanted, storage_reader=reader, process_group=ranks.saving))
    restore_optimizers(optimizers, states)


def _state_like(
    name: str, entry: TensorStorageMetadata, optimizers: Sequence[torch.optim.Optimizer], path: Path
) -> Tensor:
    """An empty tensor for a state of an optimizer, sharded as its parameter is where it has as many rows."""
    _, owner, index, _ = name.split(".", 3)
    try:
        parameters = [p for group in optimizers[int(owner)].param_groups for p in group["params"]]
        like = parameters[int(index)].detach()
    except IndexError as error:
        raise _misfit(path, f"{name} is the state of a parameter that does not train") from error
    dtype = entry.properties.dtype
    if isinstance(like, DTensor) and entry.size and entry.size[0] == like.shape[0]:
        return empty(entry.size, dtype=dtype, device_mesh=like.device_mesh, placements=like.placements)
    return torch.empty(entry.size, dtype=dtype)


def _misfit(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"The checkpoint {str(path)!r} does not fit the settings of this run: {why}")
