"""`tagmoe data compose` on small folders: what it writes, that it resumes, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.cut_outs import folders

from tagmoe.data.sources import photoworld
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.photoworld import EVERY, PhotoWorldSource
from tagmoe.data.store.record import record_id, split_of
from tagmoe.data.store.store import Store
from tagmoe.photoworld import PhotoWorld


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    return folders(tmp_path_factory.mktemp("roots"))


@pytest.fixture(scope="module")
def world(made) -> PhotoWorld:
    return PhotoWorld(*made, size=64)


def ids(store: Store) -> list[str]:
    return sorted(record.id for record in store.records(list(range(len(store)))))


def test_it_fills_a_store_once_and_says_what_it_did(tagmoe, made, tmp_path) -> None:
    command = ("data", "compose", *made, "-o", tmp_path / "s", "--count", "30", "--size", "64", "--seed", "3")
    first = tagmoe(*command, "--json")
    data = json.loads(first.out)
    assert (first.code, first.err) == (0, "")
    assert (data["pairs"], data["already"], data["roots"]["test"]["cutouts"]) == (30, False, 2)
    assert data["records"] == data["added"] > 30, "inverse edits come on top"
    again = tagmoe(*command)
    assert again.out == f"{tmp_path / 's'}\n"
    assert again.err.splitlines()[0] == "these pairs had been composed before; nothing was added"
    store = Store.open(str(tmp_path / "s"))
    records = {record.id: record for record in store.records(list(range(len(store))))}
    backwards = [record for record in records.values() if record.operation == "inverse"]
    assert len(backwards) == len(records) - 30
    for record in backwards:
        forward = records[record.parent or ""]
        assert (record.root, record.target.data) != (forward.root, forward.target.data)
        assert record.root == forward.root
        assert record.inputs[0].data == forward.target.data
    assert all(record.tags and record.images[-1].role == "mask" for record in records.values())
    assert tagmoe("data", "validate", tmp_path / "s").code == 0


def test_a_killed_call_goes_on_and_gives_the_same_records(world, made, tmp_path, monkeypatch) -> None:
    whole, broken = (Store.open_or_create(str(tmp_path / name)) for name in ("whole", "broken"))
    source = PhotoWorldSource(world, made, 24, seed=1)
    import_source(whole, source, batch_rows=8)
    drawn = world.sample

    def stops(seed: int, index: int, **given):
        if index == 17:
            raise KeyboardInterrupt
        return drawn(seed, index, **given)

    with monkeypatch.context() as patch:
        patch.setattr(world, "sample", stops)
        with pytest.raises(KeyboardInterrupt):
            import_source(broken, source, batch_rows=8)
    before = len(broken)
    assert 0 < before < len(whole)
    found = import_source(broken, source, batch_rows=8)
    assert 0 < found.resumed <= 17
    assert ids(broken) == ids(whole)


def test_a_store_divides_records_as_the_roots_are_divided(world, made, monkeypatch) -> None:
    monkeypatch.setattr(photoworld, "EVERY", 5)
    held_out = {root.digest for part in (world.roots["test"].cutouts, world.roots["test"].grounds) for root in part}
    source = PhotoWorldSource(world, made, 20, seed=2)
    for number, row in enumerate(source.rows()):
        apart = number % 5 == 4
        case = world.sample(2, number, split="test" if apart else "train")
        assert apart == bool(held_out & set(case.roots)) == (held_out >= set(case.roots))
        assert {split_of(record.root) for record in row.records} == {"validation" if apart else "train"}
    assert EVERY == 100


def test_ids_tell_pictures_sizes_and_tasks_apart(world, made) -> None:
    def first(**given) -> str:
        return next(iter(PhotoWorldSource(world, made, 1, **given).rows())).records[0].id

    assert len({first(), first(seed=1), first(tasks=("night",)), first(split="test")}) == 4
    assert first() == first(inverses=False, licence="MIT")
    assert len(record_id("photoworld", "")) == len(first())


def test_options_reach_the_pairs(tagmoe, made, tmp_path) -> None:
    command = ("data", "compose", *made, "-o", tmp_path / "s", "--count", "4", "--size", "32", "--tasks", "night,move")
    assert tagmoe(*command, "--no-inverses", "--licence", "CC0-1.0", "--split", "test").code == 0
    groups = json.loads(tagmoe("data", "stats", tmp_path / "s", "--json").out)["groups"]
    assert set(groups["task"]) <= {"night", "move"}
    assert (groups["licence"], groups["split"]) == ({"CC0-1.0": 4}, {"validation": 4})
    assert groups["operation"] == {"compose": 4}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--size", "70"), "The size is 70; give a multiple of 8"),
        (("--tasks", "fly"), "Unknown PhotoWorld task fly"),
        (("--split", "test", "--held-out", "0"), "no held-out pairs without held-out roots"),
        (("--split", "other"), "--split is other; give train or test"),
        (("--licence", "CC-BY-NC-4.0"), "--accept-licence CC-BY-NC-4.0"),
        (("--count", "0"), "--count"),
    ],
)
def test_wrong_options_are_refused_and_leave_no_store(tagmoe, made, tmp_path, change, sentence) -> None:
    given = {"--count": "3", "--size": "64"} | dict(zip(change[::2], change[1::2], strict=True))
    words = [word for pair in given.items() for word in pair]
    tagmoe("data", "compose", *made, "-o", tmp_path / "s", *words).refused(2, sentence)
    assert not (tmp_path / "s").exists()


def test_unusable_pictures_are_named(tagmoe, made, tmp_path) -> None:
    grounds, cutouts = folders(tmp_path, grounds=4, cutouts=4)
    command = ("data", "compose", grounds, cutouts, "-o", tmp_path / "s", "--count", "3", "--size", "64")
    Image.new("RGB", (80, 80)).save(cutouts / "photo.png")
    tagmoe(*command).refused(1, "photo.png", "has no alpha channel")
    (cutouts / "photo.png").write_bytes(b"\x89PNG rubbish")
    tagmoe(*command).refused(1, "photo.png", "cannot be used")
    tagmoe("data", "compose", tmp_path / "no", cutouts, "-o", tmp_path / "s", "--count", "3").refused(
        1, "There is no folder"
    )
    assert not (tmp_path / "s").exists()
