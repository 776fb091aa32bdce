"""Sparse upcycling of a checkpoint on the disk, tensor by tensor (paper 4.1): no model is built, no torch imported.

The kernel copies unchanged tensors as bytes. Only the experts' output layers, converted dtypes and noise pass through
this process, 64 KB at a time. With noise 0 the result equals that of `tagmoe.model.upcycle.upcycle` bit for bit, except
for the gates: numpy draws them, from the same distribution.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe import __version__
from tagmoe.errors import CheckpointError, ConfigError, MissingError
from tagmoe.files.json_files import read_object
from tagmoe.files.resumable import ByteRange, Log, Made, PlannedFile, Progress, Written, write_folder
from tagmoe.weights.dtypes import FLOATS, NAMES, decode, encode
from tagmoe.weights.layout import (
    DENSE_DEFAULTS,
    GateTensor,
    ffn_layout,
    gate_layout,
    is_output_layer,
    mixture_settings,
    rounding_note,
    takes_noise,
)
from tagmoe.weights.shards import (
    MAX_SHARD_BYTES,
    Entry,
    Planned,
    describe_files,
    json_file,
    plan_shards,
    read_entries,
    tensor_bytes,
)

CLASSES = ("QwenImageTransformer2DModel", "TagMoETransformer2DModel")
INDEX = "model_index.json"
PART = "transformer"
# Numbers are computed in pieces that stay in the processor's cache: 1.7 GB/s, where pieces of 1 MB gave 0.4.
COMPUTE_BYTES = 1 << 16


@dataclass(frozen=True)
class Upcycling:
    """How a checkpoint is upcycled. `dtype` None keeps the file's; `noise`: share of each weight's deviation."""

    num_moe_blocks: int
    num_experts: int = 4
    top_k: int = 1
    gate: str = "mlp"
    gate_hidden: int | None = None
    mode: str = "exact"
    noise: float = 0.0
    seed: int = 0
    dtype: str | None = None


def upcycle_folder(
    source: Path,
    target: Path,
    settings: Upcycling,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    replace: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Written:
    """Upcycle a dense transformer folder, or a pipeline folder that holds one; its other parts are then copied.

    A killed call resumes, and a second process is refused: see `tagmoe.files.resumable.write_folder`, whose errors are
    raised too.
    Raises MissingError when there is no transformer, ConfigError for bad settings or a mixture, CheckpointError for a
    folder that is damaged, incomplete, a pickle or of other dimensions than its config says.
    """
    part = transformer_folder(source)
    config = _read_config(part / "config.json")
    dense = DENSE_DEFAULTS | {key: value for key, value in config.items() if key in DENSE_DEFAULTS}
    if settings.dtype is not None and settings.dtype not in NAMES:
        raise ConfigError(f"The dtype {settings.dtype!r} is unknown; choose one of {', '.join(NAMES)}.")
    mixture = {name: value for name, value in vars(settings).items() if name not in ("seed", "dtype")}
    added = mixture_settings(num_layers=dense["num_layers"], present=config, **mixture)
    entries = read_entries(part)
    _check_layout(part, entries, dense)
    planned = list(_plan(entries, dense, added, settings))
    for kind in sorted({tensor.dtype for tensor in planned if ".img_mlp.experts." in tensor.name}):
        if log is not None and (note := rounding_note(added["expert_scale"], kind)):
            log(note)
    # The entries that save_pretrained would write for a model built in memory.
    names = {"_class_name": "TagMoETransformer2DModel", "_diffusers_version": version("diffusers")}
    is_pipeline = part != source
    files = plan_shards(
        planned, dense | added | names, max_shard_bytes=max_shard_bytes, subfolder=PART if is_pipeline else ""
    )
    others = _other_files(source) if is_pipeline else []
    files += others
    if is_pipeline:
        files.append(json_file(INDEX, read_object(source / INDEX) | {PART: ["tagmoe", "TagMoETransformer2DModel"]}))
    fingerprint = {
        "made by": ["tagmoe upcycle", __version__],
        "settings": {**vars(settings), "max_shard_bytes": max_shard_bytes},
        "config": json.loads(json.dumps(dense)),
        "weights": describe_files(dict.fromkeys(entry.file for entry in entries.values())),
        "others": [[file.name, *_state(source / file.name)] for file in others],
    }
    return write_folder(target, files, fingerprint=fingerprint, replace=replace, progress=progress, log=log)


def transformer_folder(source: Path) -> Path:
    """`source`, or its transformer/ when it is a pipeline. Raises MissingError when there is no config.json."""
    part = source / PART if (source / INDEX).is_file() else source
    if not (part / "config.json").is_file():
        raise MissingError(
            f"There is no transformer in {str(source)!r}; give a folder with config.json, or a pipeline folder with "
            "transformer/."
        )
    return part


def _check_layout(part: Path, entries: Mapping[str, Entry], dense: Mapping[str, Any]) -> None:
    """Refuse weights of other dimensions than the config's, and blocks that differ from one another."""
    dim = dense["num_attention_heads"] * dense["attention_head_dim"]
    wanted: dict[str, tuple[int, ...]] = {
        "img_in.weight": (dim, dense["in_channels"]),
        "txt_in.weight": (dim, dense["joint_attention_dim"]),
        "proj_out.weight": (dense["patch_size"] ** 2 * (dense["out_channels"] or dense["in_channels"]), dim),
    }
    first = {
        name.split(".", 2)[2]: entry.shape
        for name, entry in entries.items()
        if name.startswith("transformer_blocks.0.") and name.count(".") > 2
    }
    first |= {f"img_mlp.{name}": shape for name, shape in ffn_layout(dim).items()}
    for index in range(dense["num_layers"]):
        wanted |= {f"transformer_blocks.{index}.{name}": shape for name, shape in first.items()}
    for name, shape in wanted.items():
        if name not in entries:
            raise CheckpointError(f"The weights in {str(part)!r} do not match their config.json; missing: {name}.")
        if entries[name].shape != shape:
            raise CheckpointError(
                f"The weights in {str(part)!r} are of other dimensions than their config.json says: {name} has the "
                f"shape {entries[name].shape}, not {shape}."
            )
    for name in entries:
        if name.startswith("transformer_blocks.") and name not in wanted:
            raise CheckpointError(f"The weights in {str(part)!r} do not match their config.json; unexpected: {name}.")


def _plan(
    entries: Mapping[str, Entry], dense: Mapping[str, Any], added: Mapping[str, Any], settings: Upcycling
) -> Iterator[Planned]:
    """The mixture's tensors in the order of the dense file, the experts where their FFN was."""
    dim, num_layers = dense["num_attention_heads"] * dense["attention_head_dim"], dense["num_layers"]
    mixtures = {
        f"transformer_blocks.{index}.img_mlp.": index
        for index in range(num_layers - settings.num_moe_blocks, num_layers)
    }
    gate = gate_layout(dim, settings.num_experts, settings.gate, settings.gate_hidden)
    wanted = None if settings.dtype is None else NAMES[settings.dtype]
    for name, entry in entries.items():
        prefix = ".".join(name.split(".")[:3]) + "."
        if prefix not in mixtures:
            yield _Tensor(entry, wanted).planned(name)
            continue
        own = name.removeprefix(prefix)
        dtype = wanted or entry.dtype
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"The tensor {name!r} of {str(entry.file)!r} is stored as {entry.dtype}; experts can be made of "
                f"{', '.join(FLOATS)} only, so give the weights before quantisation."
            )
        if own == "net.0.proj.weight":
            for tensor in gate:
                yield _gate(f"{prefix}gate.{tensor.name}", tensor, dtype, settings.seed)
        scale = added["expert_scale"] if is_output_layer(own) else 1.0
        noise = settings.noise if takes_noise(entry.shape) else 0.0
        tensor_source = _Tensor(entry, wanted)
        for expert in range(settings.num_experts):
            yield tensor_source.planned(
                f"{prefix}experts.{expert}.{own}", scale=scale, noise=noise, draw=(settings.seed, name, expert)
            )


def _gate(name: str, tensor: GateTensor, dtype: str, seed: int) -> Planned:
    def chunks() -> Iterator[bytes]:
        generator, left = _generator(seed, name, 0), prod(tensor.shape)
        while left:
            count = min(left, COMPUTE_BYTES // 4)
            if tensor.bound:
                values = generator.random(count, dtype=np.float32) * np.float32(2 * tensor.bound)
                values -= np.float32(tensor.bound)
            else:
                values = generator.standard_normal(count, dtype=np.float32) * np.float32(tensor.std)
            yield encode(values, dtype)
            left -= count

    return Planned(name, dtype, tensor.shape, (Made(tensor_bytes(dtype, tensor.shape), chunks),))


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    """The random numbers of one tensor: they depend neither on its file nor on the sizes of the chunks."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64DXSM([seed, number, *digest[:16]]))


@dataclass
class _Tensor:
    """A stored tensor and its changes, in order: converted to `wanted` (None: not converted), noise, scale."""

    entry: Entry
    wanted: str | None

    @property
    def dtype(self) -> str:
        return self.entry.dtype if self.wanted is None or self.entry.dtype not in FLOATS else self.wanted

    def planned(
        self, name: str, *, scale: float = 1.0, noise: float = 0.0, draw: tuple[int, str, int] = (0, "", 0)
    ) -> Planned:
        if self.dtype == self.entry.dtype and scale == 1.0 and noise == 0.0:
            return Planned.copy(self.entry, name)

        def chunks() -> Iterator[bytes]:
            generator = _generator(*draw)
            for values in self._values():
                if noise:
                    spread = np.float32(noise * self._deviation)
                    values = values + generator.standard_normal(len(values), dtype=np.float32) * spread
                if scale != 1.0:
                    values = values * values.dtype.type(scale)
                yield self._encoded(values)

        made = Made(tensor_bytes(self.dtype, self.entry.shape), chunks)
        return Planned(name, self.dtype, self.entry.shape, (made,))

    def _values(self) -> Iterator[np.ndarray]:
        """The numbers in fp32 (fp64 stays), rounded to the wanted dtype as if the file had been in it."""
        for data in self.entry.read(COMPUTE_BYTES):
            values = decode(data, self.entry.dtype)
            yield values if self.dtype == self.entry.dtype else decode(self._encoded(values), self.dtype)

    def _encoded(self, values: np.ndarray) -> bytes:
        data = encode(values, self.dtype)
        if self.dtype == "F16":
            # Of the dtypes to convert to, only fp16 has a range too small for the numbers in models.
            lost = np.isinf(np.frombuffer(data, "<f2"))
            if lost.any() and np.isfinite(values[lost]).any():
                raise CheckpointError(
                    f"The tensor {self.entry.name!r} would hold numbers beyond 65504, the largest of fp16; use bf16."
                )
        return data

    @cached_property
    def _deviation(self) -> float:
        """Standard deviation as torch's std has it, from one pass with sums in fp64."""
        count, total, squares = 0, 0.0, 0.0
        for values in self._values():
            wide = values.astype(np.float64)
            count, total, squares = count + wide.size, total + wide.sum(), squares + float(wide @ wide)
        deviation: float = (max(squares - total * total / count, 0.0) / max(count - 1, 1)) ** 0.5
        return deviation


def _read_config(file: Path) -> dict[str, Any]:
    config = read_object(file)
    if config.get("_class_name") not in CLASSES:
        raise CheckpointError(
            f"{str(file)!r} describes a {config.get('_class_name')!r}; give a Qwen-Image transformer ({CLASSES[0]})."
        )
    if config.get("quantization_config"):
        raise CheckpointError(f"{str(file)!r} describes quantised weights; give the weights before quantisation.")
    for name, default in DENSE_DEFAULTS.items():
        value = config.get(name, default)
        if name == "out_channels" and value is None:
            continue
        if type(default) is int and (type(value) is not int or value < 1):
            raise CheckpointError(f"{str(file)!r} has {name} {value!r}; it must be a whole number of 1 or more.")
    return config


def _other_files(source: Path) -> list[PlannedFile]:
    """The files of a pipeline beside its transformer, to be copied; hidden folders (caches, .git) stay behind."""
    files, seen = [], set()
    for folder, names, leaves in os.walk(source, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            raise CheckpointError(f"The folder {folder!r} is a link into {str(source)!r} itself; remove the link.")
        seen.add(here.resolve())
        names[:] = sorted(name for name in names if not name.startswith(".") and here / name != source / PART)
        for file in (here / leaf for leaf in sorted(leaves)):
            if not file.is_file():
                raise CheckpointError(f"{str(file)!r} is no file that can be copied; remove it or download it again.")
            if file != source / INDEX:
                name = file.relative_to(source).as_posix()
                files.append(PlannedFile(name, (ByteRange(file, 0, file.stat().st_size),)))
    return files


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]
