"""Every verb that writes a store, on a full disk, in a read-only folder, on a newer store, beside another writer."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from support.failing_disk import read_only, small_files
from support.stored_content import content_hash

from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store import store as stores
from tagmoe.data.store.store import Store

VERBS = {
    "import": ("tagworld", "STORE", "--count", 30),
    "validate": ("STORE", "--workers", 1),
    "invert": ("STORE", "--share", 0.5),
    "encode": ("STORE",),
    "clean": ("STORE", "--older-than", 0),
}
GROWING = sorted(set(VERBS) - {"clean"})


def command(verb: str, store: Path) -> list[object]:
    return ["data", verb, *(store if word == "STORE" else word for word in VERBS[verb])]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "s"
    import_source(Store.create(path), TagWorldSource(count=12, seed=3))
    return path


@pytest.fixture
def store(made):
    # not below tmp_path, which another user may not enter
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(shutil.copytree(made, Path(name) / "s"))


def contents(path: Path) -> tuple[int, str]:
    opened = Store.open(path)
    return len(opened), content_hash(opened, ["id", "instruction", "images", "target"])


@pytest.mark.slow_but_first
@pytest.mark.parametrize("verb", GROWING)
def test_a_disk_that_takes_no_more(tagmoe, store, made, verb):
    with small_files(300):
        failed = tagmoe(*command(verb, store))
    failed.refused(1, "File too large")
    assert contents(store) == contents(made)
    assert tagmoe(*command(verb, store)).code == 0


@pytest.mark.slow_but_first
@pytest.mark.parametrize("verb", VERBS)
def test_a_read_only_folder(tagmoe, store, made, verb):
    with read_only(store.parent):
        failed = tagmoe(*command(verb, store))
    failed.refused(1, "Nothing can be written", "Permission denied")
    assert contents(store) == contents(made)


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_of_a_newer_version(tagmoe, tmp_path, monkeypatch, verb):
    with monkeypatch.context() as patch:
        patch.setattr(stores, "VERSION", stores.VERSION + 1)
        Store.create(tmp_path / "s")
    tagmoe(*command(verb, tmp_path / "s")).refused(1, f"has version '{stores.VERSION + 1}'")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("verb", VERBS)
def test_another_writer(tagmoe, store, made, verb):
    with Store.open(store).writing():
        tagmoe(*command(verb, store)).refused(1, "Another process is writing")
    assert contents(store) == contents(made)


def test_encoding_ends_and_says_so(tagmoe, store):
    assert "12 rows encoded, left: 0 fragments" in tagmoe("data", "encode", store).out
    assert "0 rows encoded" in tagmoe("data", "encode", store).out
    tagmoe("data", "encode", store, "--sizes", "64x").refused(2, "'64x'")
    tagmoe("data", "encode", store, "--sizes", "32x32").refused(1, "another encoder", "--again")
