"""Weight files as bytes: find the tensors in a safetensors checkpoint, and write a checkpoint from such bytes.

No torch here: importing it costs two seconds and 200 MB, and moving bytes needs neither. Only headers are read; files
are never mapped, because mapped pages count as the memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.files.json_files import names_once, read_object
from tagmoe.files.resumable import ByteRange, Made, PlannedFile, read_chunks
from tagmoe.sentences import counted, reason_of

STEM = "diffusion_pytorch_model"
# the files of a model folder, as patterns
MODEL_FILES = ("config.json", f"{STEM}*.safetensors", f"{STEM}*.json")
# diffusers' default of save_pretrained, "10GB"
MAX_SHARD_BYTES = 10 * 10**9
# the format's own limit of a header
MAX_HEADER_BYTES = 100_000_000
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

# Bits of an element, in the order in which safetensors sorts the tensors of a file (from the last to the first).
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_DTYPE_ORDER = {name: order for order, name in enumerate(DTYPE_BITS)}


@dataclass(frozen=True)
class Entry:
    """One stored tensor: its dtype (safetensors' name, such as BF16), its shape and where its bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    nbytes: int

    def whole(self) -> ByteRange:
        """All of its bytes, to be copied."""
        return ByteRange(self.file, self.start, self.nbytes)

    def rows(self, first: int, end: int) -> ByteRange:
        """The bytes of rows [first, end) of the leading dimension."""
        row = self.nbytes // self.shape[0]
        return ByteRange(self.file, self.start + first * row, (end - first) * row)

    def read(self, chunk: int) -> Iterator[bytes]:
        """Its bytes, `chunk` at a time."""
        return read_chunks(self.file, self.start, self.nbytes, chunk)


@dataclass(frozen=True)
class Planned:
    """A tensor to write: the pieces hold its bytes in order, row-major and little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[bytes | ByteRange | Made, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor, from dtype and shape."""
        return tensor_bytes(self.dtype, self.shape)

    @classmethod
    def copy(cls, entry: Entry, name: str | None = None) -> Planned:
        """A stored tensor as it is, under another name if one is given."""
        return cls(name or entry.name, entry.dtype, entry.shape, (entry.whole(),))


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Size of a tensor in bytes, rounded up."""
    return -(-prod(shape) * DTYPE_BITS[dtype] // 8)


def read_entries(folder: Path, stem: str = STEM) -> dict[str, Entry]:
    """Every tensor of a model folder: `stem.safetensors`, or `stem.safetensors.index.json` and its shards.

    Only headers are read. Raises MissingError when there is no such folder, and CheckpointError, naming the file,
    when a file is missing, damaged or cut short, and for a folder that holds pickles only.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no model folder {str(folder)!r}; give a folder with safetensors weights.")
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"The folder {str(folder)!r} holds both {single.name} and {index.name}; remove the one that is not meant."
        )
    if single.is_file():
        return read_file(single)
    if not index.is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{str(folder / pickles[0])!r} is a pickle, which can run code when it is read, so it is refused; "
                "give the same weights as safetensors."
            )
        raise CheckpointError(f"The model folder is incomplete: {str(single)!r} is missing; copy or download it again.")
    weight_map = _weight_map(index)
    entries = read_files(folder / name for name in dict.fromkeys(weight_map.values()))
    for name, file in weight_map.items():
        if name not in entries or entries[name].file.name != file:
            raise CheckpointError(
                f"{str(index)!r} names the tensor {name!r} in {file!r}, which does not hold it; download both again."
            )
    unknown = entries.keys() - weight_map.keys()
    if unknown:
        raise CheckpointError(
            f"{str(index)!r} does not name the tensor {min(unknown)!r} of its shards; copy or download them again."
        )
    return entries


def read_files(files: Iterable[Path]) -> dict[str, Entry]:
    """Every tensor of several safetensors files, in the order of the files and of the bytes in them.

    Raises CheckpointError, also when two files hold a tensor of the same name.
    """
    entries: dict[str, Entry] = {}
    for file in files:
        for name, entry in read_file(file).items():
            if name in entries:
                raise CheckpointError(
                    f"The tensor {name!r} is in {entries[name].file.name!r} and again in {str(file)!r}; "
                    "remove the file that is not meant."
                )
            entries[name] = entry
    return entries


def read_file(file: Path) -> dict[str, Entry]:
    """Every tensor of one safetensors file, in the order of the bytes. Raises CheckpointError naming the file."""
    header, text = _read_header(file)
    size, end = file.stat().st_size, 8 + len(text)
    header.pop("__metadata__", None)
    entries = [_entry(file, name, value, end) for name, value in header.items()]
    entries.sort(key=lambda entry: (entry.start, entry.nbytes))
    for entry in entries:
        if entry.start != end:
            raise _damaged(file, f"the tensor {entry.name!r} does not begin where the one before ends")
        end += entry.nbytes
    if size < end:
        raise _damaged(file, f"cut short: {counted(size, 'byte')} where the header says {end}")
    if size > end:
        raise _damaged(file, f"{counted(size - end, 'byte')} after the last tensor")
    return {entry.name: entry for entry in entries}


def describe_files(files: Iterable[Path]) -> list[list[Any]]:
    """[name, size, time of change in ns, hash of the header] of each weight file: the source in a fingerprint."""
    facts = []
    for file in files:
        state, (_, text) = file.stat(), _read_header(file)
        facts.append([file.name, state.st_size, state.st_mtime_ns, hashlib.sha256(text).hexdigest()])
    return facts


def plan_shards(
    planned: Sequence[Planned],
    config: Mapping[str, Any],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    stem: str = STEM,
    subfolder: str = "",
) -> list[PlannedFile]:
    """The files of a model folder as diffusers' save_pretrained writes them: shards, their index, config.json last.

    Tensors fill the shards in the order given; one larger than `max_shard_bytes` has a shard to itself.
    """
    if len({tensor.name for tensor in planned}) != len(planned):
        raise ValueError("two planned tensors have the same name")
    shards: list[list[Planned]] = []
    current: list[Planned] = []
    filled = 0
    for tensor in planned:
        if tensor.nbytes > max_shard_bytes:
            shards.append([tensor])
            continue
        if filled + tensor.nbytes > max_shard_bytes:
            shards.append(current)
            current, filled = [], 0
        current.append(tensor)
        filled += tensor.nbytes
    if current or not shards:
        shards.append(current)
    count = len(shards)
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [f"{stem}.safetensors"]
    prefix = f"{subfolder}/" if subfolder else ""
    files = [shard_file(prefix + name, shard) for name, shard in zip(names, shards, strict=True)]
    if count > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in planned)},
            "weight_map": {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        }
        files.append(json_file(f"{prefix}{stem}.safetensors.index.json", index))
    return [*files, json_file(f"{prefix}config.json", config)]


def json_file(name: str, data: Mapping[str, Any]) -> PlannedFile:
    """A JSON file as diffusers writes it."""
    return PlannedFile(name, ((json.dumps(data, indent=2, sort_keys=True) + "\n").encode(),))


def shard_file(name: str, shard: Sequence[Planned]) -> PlannedFile:
    """One safetensors file, byte for byte as the library writes it: wide dtypes first, then by name."""
    ordered = sorted(shard, key=lambda tensor: (-_DTYPE_ORDER[tensor.dtype], tensor.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        end = offset + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    pieces = (piece for tensor in ordered for piece in tensor.pieces)
    return PlannedFile(name, (len(text).to_bytes(8, "little") + text, *pieces))


def _read_header(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header, parsed and as raw bytes."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            first = handle.read(8)
            length = int.from_bytes(first, "little")
            if first.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")) and length > size:
                raise _damaged(file, "a pickle under another name, which can run code when it is read")
            if first == b"version ":
                raise _damaged(file, "a Git LFS pointer, the weights themselves were not downloaded")
            if len(first) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(file, "cut short or no safetensors file")
            text = handle.read(length)
        header = json.loads(text, object_pairs_hook=names_once)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"The model folder is incomplete: {str(file)!r} is missing; copy or download it again."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, reason_of(error)) from error
    if not isinstance(header, dict):
        raise _damaged(file, "its header is no JSON object")
    return header, text


def _entry(file: Path, name: str, value: Any, data_start: int) -> Entry:
    try:
        dtype, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
        fits = whole and end - start == tensor_bytes(dtype, shape)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"its header has an impossible entry for {name!r}") from error
    if not fits:
        raise _damaged(file, f"the bytes of {name!r} do not fit its dtype and shape")
    return Entry(name, dtype, shape, file, data_start + start, end - start)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    # A name that contains a folder could lead anywhere on this machine.
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise CheckpointError(f"{str(index)!r} has no weight_map of files; copy or download it again.")
    pickles = sorted(name for name in names if not name.endswith(".safetensors"))
    if pickles:
        raise CheckpointError(f"{str(index)!r} names {pickles[0]!r}, which is no safetensors file, so it is refused.")
    return dict(weight_map or {})


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"The weight file {str(file)!r} is damaged ({reason}); copy or download it again.")
