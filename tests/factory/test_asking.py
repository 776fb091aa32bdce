"""Proposals, judges and recaptions by a real server on loopback, which also fails on purpose."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.fault_server import fault_server
from support.syntheses import a_plan, synthesize
from support.tiny_sentences import sentence_encoder_folder

from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, MissingError, UsageError
from tagmoe.factory.folder import Folder
from tagmoe.factory.meanings import meanings_of
from tagmoe.factory.plan import Propose, Sentences, plan_of
from tagmoe.factory.synthesize import Run, _proposal
from tagmoe.factory.words import wishes_of
from tagmoe.pictures import png_of

EDIT = {"step": "edit", "editor": "inverted", "licence": "MIT", "timeout": None}
PROPOSE = {"step": "propose", "tasks": ["add", "light"], "count": 3}
PROPOSED = [
    {"task": "light", "instruction": "make it look like night"},
    {"task": "light", "instruction": "make it look like the night"},
    {"task": "add", "instruction": "put a red hat on the person"},
]
JUDGE = {"step": "judge", "by": "vllmq", "least": 0.5}
RECAPTION = {"step": "recaption"}


@pytest.fixture(scope="module")
def server():
    with fault_server() as running:
        yield running


@pytest.fixture
def untested(monkeypatch):
    """A server that always says the same fails every self-test."""
    monkeypatch.setattr(Run, "_test_judges", lambda self: None)


def vlm(server, **more):
    return {"endpoint": server.url, "model": "tiny-vlm", "licence": "Apache-2.0", **more}


def rows(folder, name, *columns):
    return [row for batch in Store.open(folder / name).scan(list(columns)) for row in batch.to_pylist()]


def test_proposals_are_edited_without_those_that_are_alike(tmp_path, server) -> None:
    server.set(rules=[{"content": {"instructions": PROPOSED}}])
    server.clear()
    found = synthesize(tmp_path / "a", a_plan(PROPOSE, EDIT, count=3, vlm=vlm(server)))
    assert {row["instruction"] for row in rows(tmp_path / "a", "store", "instruction")} == {
        PROPOSED[0]["instruction"],
        PROPOSED[2]["instruction"],
    }
    assert (found.steps[1].before, found.steps[1].after, found.kept) == (9, 6, 6)
    makers = json.loads(rows(tmp_path / "a", "store", "made_by")[0]["made_by"])
    assert [(maker["step"], maker["model"]) for maker in makers] == [("1 propose", "tiny-vlm"), ("2 edit", "inverted")]
    synthesize(tmp_path / "a", a_plan(PROPOSE, EDIT, count=3, vlm=vlm(server)))
    assert server.counts()["requests"] == 3, "nothing is asked twice"


def test_a_judge_drops_and_a_recaption_keeps_with_the_words_of_what_is_seen(tmp_path, server, untested) -> None:
    words = "turn every colour into its opposite"
    rules = [
        {"contains": "really changed", "content": {"instruction": words, "certain": True}},
        {"content": "0", "probabilities": {"0": 0.9, "1": 0.1}},
    ]
    server.set(rules=rules)
    asked = a_plan(EDIT, JUDGE, RECAPTION, {"step": "pick"}, count=4, vlm=vlm(server))
    found = synthesize(tmp_path / "a", asked)
    assert (found.kept, found.salvaged) == (4, 4)
    for row in rows(tmp_path / "a", "store", "instruction", "native_task", "tags", "made_by", "parent"):
        assert (row["instruction"], row["native_task"], row["tags"]) == (words, "", None)
        assert json.loads(row["made_by"])[-1]["asked"] != words
    # The same judge without salvage: all of them are negatives, with its reason.
    found = synthesize(tmp_path / "a", a_plan(EDIT, JUDGE, {"step": "pick"}, count=4, vlm=vlm(server)))
    assert found.kept == 0
    reasons = {row["quarantine"][0] for row in rows(tmp_path / "a", "negatives", "quarantine")}
    assert reasons == {"step 2: the judge's value is below the least"}


def test_both_wordings_of_a_good_edit_are_kept(tmp_path, server, untested) -> None:
    server.set(
        rules=[
            {"contains": "really changed", "content": {"instruction": "invert all colours", "certain": True}},
            {"content": "1", "probabilities": {"0": 0.1, "1": 0.9}},
        ]
    )
    synthesize(tmp_path / "a", a_plan(EDIT, JUDGE, RECAPTION, count=3, vlm=vlm(server)))
    roots = {row["id"]: row["instruction"] for row in rows(tmp_path / "a", "roots", "id", "instruction")}
    for row in rows(tmp_path / "a", "store", "instruction", "instructions", "parent"):
        assert (row["instruction"], row["instructions"]) == (roots[row["parent"]], ["invert all colours"])


def test_a_server_that_fails_stops_the_run_which_goes_on_when_it_answers(tmp_path, server) -> None:
    server.set(rules=[{"contains": "really changed", "fault": "500"}])
    asked = a_plan(EDIT, RECAPTION, count=3, vlm=vlm(server))
    with pytest.raises(DataError, match="run the same command again"):
        synthesize(tmp_path / "a", asked)
    server.set(rules=[{"content": {"instruction": "invert all colours", "certain": True}}])
    assert synthesize(tmp_path / "a", asked).kept == 3


def test_a_judge_that_finds_everything_right_fails_its_self_test_before_anything_is_made(tmp_path, server) -> None:
    server.set(rules=[{"content": "1", "probabilities": {"0": 0.1, "1": 0.9}}])
    with pytest.raises(UsageError, match="fails its self-test"):
        synthesize(tmp_path / "a", a_plan(EDIT, JUDGE, count=3, vlm=vlm(server)))
    assert not Folder(tmp_path / "a").has("candidates")


def test_a_judge_of_the_editors_family_is_refused(tmp_path, server) -> None:
    editor = {**EDIT, "name": "tiny-editor"}
    with pytest.raises(UsageError, match="family 'tiny'"):
        synthesize(tmp_path / "a", a_plan(editor, JUDGE, count=3, vlm=vlm(server)))


def test_proposals_alike_in_most_words_are_one() -> None:
    kept, left_out = wishes_of(json.dumps(PROPOSED), 0.8)
    assert ([wish.task for wish in kept], left_out) == (["light", "add"], 1)
    assert wishes_of(json.dumps(PROPOSED), 1.0)[1] == 0


def test_proposals_that_a_sentence_encoder_finds_alike_are_one(tmp_path) -> None:
    """A tiny random encoder: the same words are alike, whatever their case, and at 0 all are."""
    folder = sentence_encoder_folder(tmp_path / "sentences")
    told = json.dumps([{"task": "add", "instruction": text} for text in ("Add a dog", "make it night", "ADD a DOG")])

    def left_out(alike: float) -> int:
        return wishes_of(told, 1.1, meanings_of(Sentences(weights=str(folder), alike=alike)))[1]

    assert wishes_of(told, 1.1)[1] == 0, "words alone find none at this threshold"
    assert (left_out(1.0 - 1e-6), left_out(0.0)) == (1, 2)
    with pytest.raises(MissingError, match="no folder"):
        meanings_of(Sentences(weights=str(tmp_path / "none")))


def test_a_folder_belongs_to_the_model_that_proposes_and_not_to_a_place(tmp_path) -> None:
    def facts(model: str, place: str) -> dict:
        given = {"endpoint": "http://127.0.0.1:1/v1", "model": model}
        return _proposal(Propose(tasks=("add",), vlm=given, sentences={"weights": place}))  # type: ignore[arg-type]

    assert facts("tiny", "here") == facts("tiny", "there") != facts("other", "here")


def test_photographs_that_look_alike_are_one_root_before_a_model_is_asked(tmp_path, server) -> None:
    dice = np.random.default_rng(0)
    photographs = [dice.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(2)]
    records = []
    for number, (array, side) in enumerate(((photographs[0], 240), (photographs[0], 180), (photographs[1], 240))):
        image = Image.fromarray(array).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        picture = Picture.of(png_of(image))
        name = record_id("photographs", str(number))
        records.append(Record(name, "photographs", picture, "a photograph", licence="CC0-1.0"))
    store = Store.create(tmp_path / "roots")
    with store.writing():
        store.append(records)
    server.set(rules=[{"content": {"instructions": PROPOSED[:1]}}])
    server.clear()
    plan = {"name": "p", "roots": {"store": str(tmp_path / "roots")}, "vlm": vlm(server)}
    found = synthesize(tmp_path / "a", plan_of({**plan, "steps": [PROPOSE, EDIT, {"step": "dedupe"}]}))
    assert found.steps[0].dropped == {"picture like an earlier root's": 1}
    assert (server.counts()["requests"], found.kept) == (2, 2)
    made = Store.open(tmp_path / "a" / "store").records([0])[0]
    assert (made.inputs[0].digest, made.root) == (records[0].target.digest, records[0].root)
