"""Weight files as bytes: read as the library reads them, written as it writes them, and every damage named."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.files.resumable import Made, write_folder
from tagmoe.weights.shards import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    Planned,
    describe_files,
    plan_shards,
    read_entries,
    read_file,
    read_files,
)

SINGLE, INDEX = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
WIDE = {
    "matrix": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "vector": torch.randn(5, generator=torch.Generator().manual_seed(1)),
    "half": torch.randn(7).half(),
    "double": torch.ones(2).double(),
    "whole": torch.arange(3),
    "short": torch.ones(3, dtype=torch.int16),
    "byte": torch.ones(3, dtype=torch.uint8),
    "flag": torch.ones(3, dtype=torch.bool),
    "eighth": torch.ones(3).to(torch.float8_e4m3fn),
    "complex": torch.ones(2, dtype=torch.complex64),
    "scalar": torch.zeros(()),
    "none": torch.zeros(0, 3),
    'names with \u00e4 and \\ and "': torch.ones(1),
}


def blob(header: Any, data: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.fixture
def sharded(build, tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path / "model", max_shard_size="60KB")
    return tmp_path / "model"


def test_entries_say_where_the_bytes_are(tmp_path) -> None:
    save_file(WIDE, tmp_path / "wide.safetensors", metadata={"format": "pt"})
    entries = read_file(tmp_path / "wide.safetensors")
    assert entries.keys() == WIDE.keys()
    data = (tmp_path / "wide.safetensors").read_bytes()
    for name, value in WIDE.items():
        found = entries[name]
        assert found.shape == tuple(value.shape)
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        assert data[found.start : found.start + found.nbytes] == raw
        assert b"".join(found.read(5)) == raw
    rows = entries["matrix"].rows(1, 3)
    assert data[rows.start : rows.start + rows.nbytes] == WIDE["matrix"][1:].view(torch.uint8).numpy().tobytes()


def test_a_file_is_written_byte_for_byte_as_the_library_does(tmp_path) -> None:
    save_file(WIDE, tmp_path / "wide.safetensors", metadata={"format": "pt"})
    planned = [Planned.copy(value) for value in reversed(read_file(tmp_path / "wide.safetensors").values())]
    written = write_folder(tmp_path / "out", plan_shards(planned, {"a": 1}), fingerprint={})
    assert (tmp_path / "out" / SINGLE).read_bytes() == (tmp_path / "wide.safetensors").read_bytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"a": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", SINGLE]
    assert written.nbytes == written.nbytes_now == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


@pytest.mark.slow_but_first
@pytest.mark.parametrize("size", [10**10, 60_000, 20_000])
def test_a_folder_is_divided_as_diffusers_divides_it(build, tmp_path, size) -> None:
    model = build()
    model.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    entries = read_entries(tmp_path / "theirs")
    planned = [Planned.copy(entries[name]) for name in model.state_dict()]
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    write_folder(tmp_path / "ours", plan_shards(planned, config, max_shard_bytes=size), fingerprint={})
    theirs, ours = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("theirs", "ours"))
    assert ours == theirs
    assert len(ours) == 2 or INDEX in ours


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path) -> None:
    planned = [Planned(name, "U8", (size,), (b"x" * size,)) for name, size in (("a", 10), ("b", 100), ("c", 10))]
    files = plan_shards(planned, {}, max_shard_bytes=50)
    assert [len(file.pieces) for file in files[:2]] == [2, 3]
    assert [file.name[-25:] for file in files[:2]] == [f"l-0000{i}-of-00002.safetensors"[-25:] for i in (1, 2)]
    assert [file.name for file in files[2:]] == [INDEX, "config.json"]
    with pytest.raises(ValueError, match="same name"):
        plan_shards([planned[0], planned[0]], {})


def test_pieces_are_put_together(tmp_path) -> None:
    save_file({"a": torch.arange(12.0).reshape(4, 3)}, tmp_path / "a.safetensors")
    source = read_file(tmp_path / "a.safetensors")["a"]
    made = Made(12, lambda: iter([b"\0" * 5, b"\0" * 7]))
    planned = Planned("b", "F32", (4, 3), (source.rows(3, 4), made, source.rows(0, 2)))
    write_folder(tmp_path / "out", plan_shards([planned], {}), fingerprint={})
    expected = torch.tensor([[9.0, 10, 11], [0, 0, 0], [0, 1, 2], [3, 4, 5]])
    assert torch.equal(load_file(tmp_path / "out" / SINGLE)["b"], expected)


def test_pieces_that_do_not_fill_a_tensor_are_an_error_and_leave_nothing(tmp_path) -> None:
    from tagmoe.errors import TagMoEError

    planned = Planned("b", "F32", (4,), (Made(16, lambda: iter([b"\0" * 15])),))
    with pytest.raises(TagMoEError, match="bytes"):
        write_folder(tmp_path / "out", plan_shards([planned], {}), fingerprint={})
    assert list(tmp_path.iterdir()) == []


def test_shards_are_read_through_their_index(sharded) -> None:
    entries = read_entries(sharded)
    assert len({found.file for found in entries.values()}) > 3
    assert {name: prod(found.shape) for name, found in entries.items()} == {
        name: value.numel() for file in sharded.glob("*.safetensors") for name, value in load_file(file).items()
    }
    assert read_files(sorted(sharded.glob("*.safetensors"))).keys() == entries.keys()
    names = [fact[0] for fact in describe_files(sorted(sharded.glob("*.safetensors")))]
    assert names == sorted(path.name for path in sharded.glob("*.safetensors"))


ONE = entry([2], 0, 8)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "half a length": (b"\x10\0\0", "cut short"),
    "a length beyond the file": (blob({"a": ONE}, 8, length=10_000), "cut short"),
    "a length beyond any header": (blob(b"{}", 0, length=MAX_HEADER_BYTES + 1), "cut short"),
    "an enormous length": (b"\xff" * 8 + b"{", "cut short"),
    "no JSON": (blob(b"[1, 2"), "damaged"),
    "no UTF-8": (blob(b'{"\xff": 1}'), "damaged"),
    "deep JSON": (blob(b"[" * 100_000), "damaged"),
    "a list": (blob([1]), "no JSON object"),
    "a number for a tensor": (blob({"a": 3}), "'a'"),
    "no dtype": (blob({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8), "'a'"),
    "an unknown dtype": (blob({"a": entry([2], 0, 8, "F31")}, 8), "'a'"),
    "a dtype that is a list": (blob({"a": {**ONE, "dtype": []}}, 8), "'a'"),
    "a shape of words": (blob({"a": {**ONE, "shape": ["2"]}}, 8), "'a'"),
    "a negative shape": (blob({"a": {**ONE, "shape": [-2]}}, 8), "'a'"),
    "a shape of truth": (blob({"a": {**ONE, "shape": [True, 2]}}, 8), "'a'"),
    "one offset": (blob({"a": {**ONE, "data_offsets": [0]}}, 8), "'a'"),
    "offsets backwards": (blob({"a": {**ONE, "data_offsets": [8, 0]}}, 8), "'a'"),
    "another size": (blob({"a": entry([3], 0, 8)}, 8), "do not fit its dtype"),
    "an overlap": (blob({"a": ONE, "b": entry([2], 4, 12)}, 12), "does not begin where"),
    "a gap": (blob({"a": ONE, "b": entry([2], 12, 20)}, 20), "does not begin where"),
    "data cut short": (blob({"a": ONE}, 7), "cut short"),
    "data too long": (blob({"a": ONE}, 9), "after the last tensor"),
    "a name twice": (blob(b'{"a": %s, "a": %s}' % ((json.dumps(ONE).encode(),) * 2), 8), "twice"),
    "a renamed zip": (b"PK\x03\x04" + b"\0\0\0\x99" + b"x" * 90, "pickle"),
    "a renamed pickle": (b"\x80\x02}q\x00(X" + b"x" * 90, "pickle"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path, case) -> None:
    data, said = DAMAGED[case]
    file = tmp_path / SINGLE
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_entries(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    # The library refuses it as well, but for the name, which it takes once.
    if case not in ("a name twice", "a shape of truth"):
        with pytest.raises((SafetensorError, OverflowError)), safe_open(file, framework="pt") as tensors:
            tensors.keys()


@pytest.mark.slow
def test_every_way_to_cut_a_file_is_found(tmp_path) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, tmp_path / SINGLE)
    data = (tmp_path / SINGLE).read_bytes()
    assert len(read_entries(tmp_path)) == 2
    for size in range(len(data)):
        (tmp_path / SINGLE).write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_entries(tmp_path)


def edit(index: Path, change: Any) -> None:
    data = json.loads(index.read_text())
    change(data)
    index.write_text(json.dumps(data))


INDEXES: dict[str, tuple[Any, str]] = {
    "no JSON": (lambda f: (f / INDEX).write_text("{"), "damaged"),
    "no map": (lambda f: edit(f / INDEX, lambda d: d.pop("weight_map")), "weight_map"),
    "an empty map": (lambda f: edit(f / INDEX, lambda d: d["weight_map"].clear()), "weight_map"),
    "a path upwards": (lambda f: edit(f / INDEX, lambda d: d["weight_map"].update(x="../x.safetensors")), "weight_map"),
    "a pickle": (lambda f: edit(f / INDEX, lambda d: d["weight_map"].update(x="x.bin")), "x.bin.*refused"),
    "a tensor that is nowhere": (
        lambda f: edit(f / INDEX, lambda d: d["weight_map"].update(x=next(iter(d["weight_map"].values())))),
        "'x'",
    ),
    "a tensor without an entry": (lambda f: edit(f / INDEX, lambda d: d["weight_map"].popitem()), "does not name"),
    "a shard missing": (lambda f: sorted(f.glob("*.safetensors"))[1].unlink(), "00002-of-.*is missing"),
    "a single file too": (lambda f: save_file({"a": torch.ones(1)}, f / SINGLE), "holds both"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_bad_index_is_one_sentence(sharded, case) -> None:
    spoil, said = INDEXES[case]
    spoil(sharded)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_entries(sharded)
    assert "\n" not in str(caught.value)


def test_a_name_in_two_files_is_refused(tmp_path) -> None:
    for name in ("a", "b"):
        save_file({"same": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"'same'.*a\.safetensors.*b\.safetensors"):
        read_files(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt", "a.pth", "b.pkl"])
def test_a_folder_of_pickles_is_refused_with_the_reason(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=f"{name}.*pickle, which can run code.*safetensors"):
        read_entries(tmp_path)


def test_folders_without_weights(tmp_path) -> None:
    with pytest.raises(MissingError, match="nowhere"):
        read_entries(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=f"{SINGLE}' is missing"):
        read_entries(tmp_path)


def test_dtypes_are_those_of_the_library(tmp_path) -> None:
    for name, bits in DTYPE_BITS.items():
        if "FNUZ" in name:
            continue
        (tmp_path / "one").write_bytes(blob({"a": entry([8], 0, bits, name)}, bits))
        with safe_open(tmp_path / "one", framework="np") as tensors:
            assert list(tensors.keys()) == ["a"]


@pytest.mark.slow
def test_the_plan_is_what_is_written(sharded, tmp_path) -> None:
    entries = read_entries(sharded)
    files = plan_shards(
        [Planned.copy(found) for found in entries.values()], {}, max_shard_bytes=50_000, subfolder="part"
    )
    write_folder(tmp_path / "out", files, fingerprint={})
    assert {
        path.relative_to(tmp_path / "out").as_posix(): path.stat().st_size for path in tmp_path.glob("out/*/*")
    } == {file.name: file.nbytes for file in files}
    assert read_entries(tmp_path / "out" / "part").keys() == entries.keys()
