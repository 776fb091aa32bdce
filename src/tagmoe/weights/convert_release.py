"""Convert the authors' weights to a tagmoe pipeline folder, as a stream: bytes are moved, no model is in memory.

Only the experts' second matrices change: they are transposed, one expert at a time (75 MB at full size).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe.errors import CheckpointError
from tagmoe.files.json_files import read_object
from tagmoe.files.resumable import (
    CHUNK,
    ByteRange,
    Log,
    Made,
    PlannedFile,
    Progress,
    Written,
    read_chunks,
    write_folder,
)
from tagmoe.weights.presets import RELEASE
from tagmoe.weights.release import Piece, ReleasePlan, plan_release, read_base_config, read_release
from tagmoe.weights.shards import (
    DTYPE_BITS,
    MAX_SHARD_BYTES,
    PICKLES,
    Entry,
    Planned,
    describe_files,
    json_file,
    plan_shards,
    read_entries,
    shard_file,
)

# The parts of a pipeline that a release takes from its base, each with the file stem of its weights (None: no weights).
BASE_PARTS = {"vae": "diffusion_pytorch_model", "text_encoder": "model", "tokenizer": None, "scheduler": None}


@dataclass(frozen=True)
class Converted:
    """What was done with every released key, and what was written."""

    plan: ReleasePlan
    written: Written


def convert_release(
    source: Path,
    base: Path,
    target: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    replace: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Converted:
    """Write a whole tagmoe pipeline folder from the authors' weights and the pipeline folder they were trained from.

    transformer/ gets their weights in our layout and in their dtype. alignment.safetensors gets the tag embedding and
    the alignment head. All else is copied from `base`, whose own transformer weights are not needed. After a stop at
    any point, the same call resumes.

    Raises MissingError when a folder is not there, and CheckpointError (naming file or keys) for a source that does not
    fit or is damaged. Raises what `tagmoe.files.resumable.write_folder` does for a target that cannot be written.
    """
    entries = read_release(source)
    plan = plan_release(entries, read_base_config(base), source=str(source))
    weights, alignment = (
        [_planned(piece, entries[piece.source]) for piece in pieces] for pieces in (plan.weights, plan.alignment)
    )
    config = plan.config | {"_class_name": "TagMoETransformer2DModel", "_diffusers_version": version("diffusers")}
    copied = _base_files(base)
    files = plan_shards(weights, config, max_shard_bytes=max_shard_bytes, subfolder="transformer")
    if alignment:
        files.append(shard_file("alignment.safetensors", alignment))
    index = _index(base)
    files += [
        *(
            PlannedFile(file.relative_to(base).as_posix(), (ByteRange(file, 0, file.stat().st_size),))
            for file in copied
        ),
        json_file("model_index.json", index),
    ]
    fingerprint = {
        "made by": f"convert-release {version('tagmoe')}",
        "release": describe_files(sorted({entry.file for entry in entries.values()})),
        "base": [[str(file.relative_to(base)), file.stat().st_size, file.stat().st_mtime_ns] for file in copied],
        "config": config,
        "index": index,
        "max_shard_bytes": max_shard_bytes,
    }
    written = write_folder(target, files, fingerprint=fingerprint, replace=replace, progress=progress, log=log)
    return Converted(plan, written)


def _planned(piece: Piece, entry: Entry) -> Planned:
    """One weight of the converted model, made of bytes of the release."""
    if piece.rows is None:
        return Planned.copy(entry, piece.name)
    rows = entry.rows(*piece.rows)
    if not piece.transposed:
        return Planned(piece.name, entry.dtype, piece.shape, (rows,))
    turned = partial(_transposed, rows, piece.shape, DTYPE_BITS[entry.dtype] // 8)
    return Planned(piece.name, entry.dtype, piece.shape, (Made(rows.nbytes, turned),))


def _transposed(rows: ByteRange, shape: tuple[int, ...], item_bytes: int) -> Iterator[bytes]:
    """The bytes of a matrix of `shape` that is stored transposed, a few MB at a time."""
    stored = np.empty(rows.nbytes, dtype=np.uint8)
    filled = 0
    for chunk in read_chunks(rows.file, rows.start, rows.nbytes):
        stored[filled : filled + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        filled += len(chunk)
    # integers of the dtype's width: numpy has no bf16, and nothing is computed
    matrix = stored.view(f"<u{item_bytes}").reshape(shape[1], shape[0])
    step = max(1, CHUNK // (shape[1] * item_bytes))
    for start in range(0, shape[0], step):
        yield matrix[:, start : start + step].T.tobytes()


def _base_files(base: Path) -> list[Path]:
    """The files of the base's other parts, pickles left out; the headers of their weights are checked."""
    files: list[Path] = []
    for part, stem in BASE_PARTS.items():
        folder = base / part
        if not folder.is_dir():
            raise CheckpointError(f"The base is incomplete: {str(folder)!r} is missing; copy or download it again.")
        if stem is not None:
            read_entries(folder, stem)
        files += sorted(
            file for file in folder.rglob("*") if file.is_file() and not any(file.match(pattern) for pattern in PICKLES)
        )
    return files


def _index(base: Path) -> dict[str, Any]:
    index = read_object(base / "model_index.json") | {
        "_class_name": "TagMoEPipeline",
        "transformer": ["tagmoe", "TagMoETransformer2DModel"],
        "default_steps": RELEASE.steps,
        "default_cfg": RELEASE.cfg,
        "default_size": RELEASE.square[0],
    }
    # editing pipelines name a processor, which is neither copied nor needed
    return {name: value for name, value in index.items() if name != "processor"}
