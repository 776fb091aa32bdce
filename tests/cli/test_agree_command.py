"""`tagmoe data agree`: results, files, exit codes, one sentence for what is wrong."""

from __future__ import annotations

import json

import pytest
from support.annotated_stores import annotate, careless, stored, truth, world_records
from support.html_page import Page
from support.made_pictures import sound

from tagmoe.data.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = stored(tmp_path_factory.mktemp("agree") / "s", world_records(80))
    return annotate(made, sloppy=careless(), oracle=truth).uri


@pytest.mark.slow
def test_result_as_text_and_as_json(tagmoe, store):
    done = tagmoe("data", "agree", store, "--a", "sloppy", "--b", "oracle", "--gold", "b", "--pictures", 0)
    assert done.code == 0
    assert "against gold, F1 is" in done.out
    assert "local editing" in done.out
    data = json.loads(tagmoe("data", "agree", store, "--a", "sloppy", "--b", "oracle", "--pictures", 0, "--json").out)
    assert (data["rows"], data["gold"], data["missed"]) == (80, None, [])
    assert 0.5 < data["figures"]["alpha"]["value"] < 1
    assert "micro_f1" not in data["figures"]


@pytest.mark.slow
def test_a_folder_with_the_page_and_tables(tagmoe, store, tmp_path):
    out = tmp_path / "report"
    arguments = ("data", "agree", store, "--a", "sloppy", "--b", "tags", "--gold", "b", "--pictures", 20, "--out", out)
    assert tagmoe(*arguments).code == 0
    assert {path.name for path in out.iterdir()} == {
        "agree.html",
        "agree.json",
        "tags.csv",
        "confusion.csv",
        "tasks.csv",
        "rows.csv",
    }
    assert "sloppy" in Page((out / "agree.html").read_text()).text
    tagmoe(*arguments).refused(2, "exists", "--force")
    assert tagmoe(*arguments, "--force").code == 0
    (out / "mine.txt").write_text("x")
    tagmoe(*arguments, "--force").refused(2, "mine.txt")


def test_a_figure_below_its_limit_exits_with_1(tagmoe, store):
    arguments = ("data", "agree", store, "--a", "sloppy", "--b", "oracle", "--gold", "b", "--pictures", 0)
    assert tagmoe(*arguments, "--fail-under", "alpha=0.3", "--fail-under", "micro_f1=0.5").code == 0
    done = tagmoe(*arguments, "--fail-under", "alpha=0.999")
    assert done.code == 1
    assert "below 0.999" in done.err
    done = tagmoe(*arguments, "--fail-under", "inverse=0.1")
    assert done.code == 1
    assert "not defined" in done.err


@pytest.mark.slow_but_first
@pytest.mark.parametrize("limit", ["alpha", "alpha=good", "alpha=nan", "beta=0.5", "=0.5"])
def test_limits_that_are_none(tagmoe, store, limit):
    tagmoe("data", "agree", store, "--a", "sloppy", "--b", "oracle", "--fail-under", limit).refused(
        2, repr(limit), "alpha_jaccard"
    )


def test_bad_input_is_one_sentence(tagmoe, store, tmp_path):
    def call(where, a, b):
        return tagmoe("data", "agree", where, "--a", a, "--b", b)

    call(store, "sloppy", "nobody").refused(2, "no annotator 'nobody'", "tags, oracle, sloppy")
    call(store, "No Name", "sloppy").refused(2, "No Name")
    call(store, "sloppy", "sloppy").refused(2, "Both annotators are 'sloppy'")
    call(tmp_path / "none", "a", "b").refused(2, "There is no store")
    Store.create(tmp_path / "empty")
    call(tmp_path / "empty", "a", "b").refused(2, "has no rows", "tagmoe data import")
    bare = stored(tmp_path / "bare", [sound(0, tags=None), sound(1, tags=None)])
    annotate(bare, one=truth)
    call(bare.uri, "one", "tags").refused(2, "no rows in common")


def test_without_the_extra_the_install_line_is_named(tagmoe, store, monkeypatch):
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None if name == "cleanlab" else name)
    tagmoe("data", "agree", store, "--a", "sloppy", "--b", "oracle").refused(3, "cleanlab", "tagmoe[vlm]")
