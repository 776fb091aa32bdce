"""Validating a store: what is unsound is marked in its column, and a killed run goes on."""

from __future__ import annotations

import json

import pytest
from made_pictures import encoded, picture, scene, sound

from tagmoe.cli import run
from tagmoe.data.store import Store
from tagmoe.data.validate import summarise, validate
from tagmoe.errors import DataError


def store_of(path, *fragments) -> Store:
    store = Store.create(path)
    with store.writing():
        for records in fragments:
            store.append(records)
    return store


def marks(store: Store) -> list[list[str] | None]:
    return Store.open(store.uri).take(range(len(store)), ["quarantine"])["quarantine"].to_pylist()


def mixed(path) -> Store:
    same = picture(scene(seed=9))
    cut = picture(encoded(scene(seed=3))[:-400])
    return store_of(
        path,
        [sound(0), sound(1, images=(same,), target=same), sound(2, instruction="")],
        [sound(3, target=cut), sound(4), sound(0)],
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_unsound_is_marked(tmp_path, workers):
    store = mixed(tmp_path / "s")
    assert validate(store, workers=workers) == 6
    found = marks(store)
    assert found[4] == []
    assert found[1]
    assert found[2]
    assert "undecodable" in found[3]
    assert (found[0], found[5]) == ([], ["duplicate id"])  # the first of two is kept
    summary = summarise(Store.open(store.uri))
    assert (summary.records, summary.unsound) == (6, 4)
    assert validate(Store.open(store.uri), workers=1) == 0


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    store, other = mixed(tmp_path / "s"), mixed(tmp_path / "o")
    fill, calls = Store.fill, []

    def once(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fill(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "fill", once)
        with pytest.raises(KeyboardInterrupt):
            validate(store, workers=1)
    validate(Store.open(store.uri), workers=1)
    validate(other, workers=1)
    assert marks(store) == marks(other)
    assert Store.open(store.uri).content_hash() == Store.open(other.uri).content_hash()


def test_the_command_exits_with_1_when_something_was_found(tmp_path, capsys):
    mixed(tmp_path / "s")
    assert run(["data", "validate", str(tmp_path / "s"), "--workers", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["records"], found["unsound"]) == (6, 4)
    store_of(tmp_path / "good", [sound(0), sound(1)])
    assert run(["data", "validate", str(tmp_path / "good"), "--workers", "1"]) == 0
    assert run(["data", "validate", str(tmp_path / "none")]) == 2


def test_another_writer(tmp_path):
    store = store_of(tmp_path / "s", [sound(0)])
    with store.writing(), pytest.raises(DataError, match="writ"):
        validate(Store.open(store.uri), workers=1)
