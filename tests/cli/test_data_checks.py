"""`tagmoe data validate` and `tagmoe data invert`: results, exit codes, one sentence for what is wrong."""

from __future__ import annotations

import json

import pytest
from support.html_page import Page
from support.made_pictures import sound

from tagmoe.data.store.record import Picture
from tagmoe.data.store.store import Store


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path / "s")
    with made.writing():
        made.append([sound(0), sound(1, instruction=""), sound(2, native_task="removal")])
    return tmp_path / "s"


def test_validate_says_what_it_found_and_exits_with_1(tagmoe, store):
    done = tagmoe("data", "validate", store, "--workers", 1)
    assert done.code == 1
    assert "unsound: 1 of 3 records" in done.out
    assert sound(1).id in done.out
    assert "checked now: 3 records" in done.err
    data = json.loads(tagmoe("data", "validate", store, "--workers", 1, "--json").out)
    assert (data["records"], data["unsound"], data["checked"]) == (3, 1, 0)
    assert data["checks"] == {"empty instruction": {"records": 1, "datasets": {"made": 1}, "first_ids": [sound(1).id]}}


def test_validate_of_a_sound_store_exits_with_0(tagmoe, tmp_path):
    made = Store.create(tmp_path / "s")
    with made.writing():
        made.append([sound(0)])
    assert tagmoe("data", "validate", tmp_path / "s", "--workers", 1).code == 0


@pytest.mark.slow
def test_invert(tagmoe, store):
    planned = json.loads(tagmoe("data", "invert", store, "--share", 0.5, "--dry-run", "--json").out)
    assert (planned["made"], planned["dry_run"], len(Store.open(store))) == (1, True, 3)
    assert planned["waiting"] == {
        "add: what was added is not certain from the words": 1,
        "remove: what comes back, and where, must be described": 1,
    }
    done = tagmoe("data", "invert", store, "--share", 0.5)
    assert done.code == 0
    assert "inverses made: 1" in done.out
    assert "not checked" in done.err
    assert "made before: 1" in tagmoe("data", "invert", store, "--share", 0.5).out


@pytest.mark.parametrize("verb", ["validate", "invert"])
def test_what_is_no_store(tagmoe, tmp_path, verb):
    tagmoe("data", verb, tmp_path / "none").refused(2, "There is no store", "none")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("quality", ["o_score", "=3", "o_score=good", "o_score=nan"])
def test_a_cut_that_is_none(tagmoe, store, quality):
    tagmoe("data", "invert", store, "--quality", quality).refused(2, repr(quality), "NAME=NUMBER")


@pytest.mark.slow
def test_other_bad_options(tagmoe, store):
    tagmoe("data", "invert", store, "--share", 0.6).refused(2, "0.6")
    tagmoe("data", "validate", store, "--workers", 0).refused(2, "0")
    tagmoe("data", "validate", store, "--out", "page.txt").refused(2, "page.txt", ".html")


@pytest.mark.parametrize("verb", ["validate", "invert"])
def test_a_store_that_another_process_writes(tagmoe, store, verb):
    with Store.open(store).writing():
        tagmoe("data", verb, store).refused(1, "Another process is writing")


def test_the_page_shows_what_was_found(tagmoe, tmp_path):
    made = Store.create(tmp_path / "s")
    cut = Picture(sound(3).images[0].data[:2000], 128, 128)
    with made.writing():
        made.append([sound(0), sound(1, instruction="<b>Add</b>" + "x" * 3000), sound(3, images=(cut,))])
    page = tmp_path / "page.html"
    assert tagmoe("data", "validate", tmp_path / "s", "--workers", 1, "--out", page).code == 1
    shown = Page(page.read_text())
    assert "<b>Add</b>" in shown.text
    assert "b" not in shown.names[: shown.names.index("header")]
    assert shown.count("div", "card") == 2
    assert shown.count("div", "blank") == 1
    assert all(address.startswith(("data:image/jpeg", "#check-")) for address in shown.addresses)
    assert "truncated" in shown.text
    assert tagmoe("data", "validate", tmp_path / "s", "--out", page).code == 2
    sound_page = tmp_path / "sound.html"
    empty = Store.create(tmp_path / "t")
    assert len(empty) == 0
    assert tagmoe("data", "validate", tmp_path / "t", "--workers", 1, "--out", sound_page).code == 0
    assert "Nothing was found" in Page(sound_page.read_text()).text
