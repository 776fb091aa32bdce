"""Annotating a store: nothing is lost, doubled or asked again, whatever fails or is stopped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from support.stored_content import content_hash

from tagmoe.annotation.answer import read_annotations
from tagmoe.annotation.ask.annotators import OracleAnnotator, VLMAnnotator
from tagmoe.annotation.ask.store import GIVE_UP_AFTER, Plan, annotate_store
from tagmoe.annotation.rules.rule_set import packaged_rules
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.record import PARTIAL, Picture, Record, TagProvenance, record_id
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.vlm.question import Answer, Question

RULES = packaged_rules()
VALUE = {"scope": "local editing", "types": ["object editing"], "preservation": ["background preservation"]}
TAGS = (0, 6, 13)
PNG = TagWorldSource(1)._record(0).target.data


@dataclass
class Scripted:
    """A model that answers each instruction as `script` says, else with VALUE; it counts and remembers."""

    script: dict[str, Answer | BaseException] = field(default_factory=dict)
    model: str = "scripted"
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most: int = 0
    closed: bool = False
    control: Answer = field(default_factory=lambda: Answer("ok", text=json.dumps(VALUE), value=VALUE))
    controls: int = 0

    async def ask(self, question: Question) -> Answer:
        if any("red disc" in part for part in question.parts if isinstance(part, str)):
            self.controls += 1
            return self.control
        text = next(part for part in question.parts if isinstance(part, str) and part.startswith("Instruction"))
        number = text.split()[3].strip("'.")
        self.asked[number] += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.001 * (int(number) % 3))
        self.in_flight -= 1
        found = self.script.get(number, Answer("ok", text=json.dumps(VALUE), value=VALUE))
        if isinstance(found, BaseException):
            raise found
        return found

    async def close(self) -> None:
        self.closed = True


def record(number: int, **changes) -> Record:
    given = {"tags": None, "tag_provenance": None}
    return Record(
        id=record_id("test", str(number)),
        dataset="test",
        target=Picture(PNG, 64, 64),
        instruction=f"edit number {number}",
        licence="MIT",
        **(given | changes),
    )


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path / "s")
    with made.writing():
        for start in (0, 7, 14):
            made.append([record(number) for number in range(start, start + 7)])
    return made


def run(store, vlm, name="vlm", **options):
    settings = {key: options.pop(key) for key in ("votes", "per_tag", "pixels", "seed") if key in options}
    plan = {key: options.pop(key) for key in ("retry", "in_flight", "replace_tags") if key in options}
    rules = options.pop("rules", RULES)
    return annotate_store(store, partial(VLMAnnotator, vlm, rules, **settings), Plan(name, **plan), **options)


def statuses(store, name="vlm"):
    return [None if found is None else found.status for found in read_annotations(store, name)]


def test_every_row_gets_its_answer_and_its_tags(store):
    vlm = Scripted()
    done = run(store, vlm, in_flight=5)
    assert (done.asked, done.left, done.tagged) == ({"ok": 21}, 0, 21)
    assert set(vlm.asked.values()) == {1}
    assert len(vlm.asked) == 21
    assert 2 <= vlm.most <= 5
    assert vlm.closed
    found = Store.open(store.uri).records(range(21))
    assert {one.tags for one in found} == {TAGS}
    assert found[0].tag_provenance == TagProvenance("vlm", "scripted", RULES.version)
    assert not (store_folder(store) / "annotating").exists()


def store_folder(store):
    return Path(store.uri)


def test_nothing_is_asked_twice(store):
    run(store, Scripted())
    vlm = Scripted()
    assert sum(run(store, vlm).asked.values()) == 0
    assert not vlm.asked


def test_a_bad_row_costs_its_own_status_only(store):
    bad = {
        "3": Answer("invalid", text="{", reason="No JSON."),
        "8": Answer("refused", reason="Not this picture."),
        "9": Answer("failed", reason="No connection."),
    }
    done = run(store, Scripted(bad))
    assert done.asked == {"ok": 18, "invalid": 1, "refused": 1, "failed": 1}
    assert done.reasons["refused", "Not this picture."] == 1
    assert done.left == 1
    kept = statuses(store)
    assert [kept[number] for number in (3, 8, 9)] == ["invalid", "refused", "failed"]
    assert Store.open(store.uri).records([3])[0].tags is None
    # failed rows are asked again, others when it is said so
    vlm = Scripted()
    assert run(store, vlm).asked == {"ok": 1}
    assert list(vlm.asked) == ["9"]
    vlm = Scripted()
    assert run(store, vlm, retry=frozenset({"invalid", "refused"})).asked == {"ok": 2}
    assert set(statuses(store)) == {"ok"}


def test_a_run_that_is_stopped_asks_nothing_again_that_was_answered(store):
    stopped = Scripted({"16": UsageError("The key is wrong.")})
    with pytest.raises(UsageError, match="The key is wrong"):
        run(store, stopped, in_flight=3)
    answered = set(stopped.asked) - {"16"}
    assert "20" not in answered
    vlm = Scripted()
    done = run(store, vlm)
    # those in flight beside it were asked and their answers lost with the run
    assert len(set(vlm.asked) & answered) <= 2
    assert done.known + sum(done.asked.values()) + 14 == 21
    assert statuses(store) == ["ok"] * 21
    assert not (store_folder(store) / "annotating").exists()


def test_a_torn_ledger_costs_the_torn_row(store):
    with pytest.raises(UsageError):
        run(store, Scripted({"6": UsageError("stop")}), in_flight=1)
    path = store_folder(store) / "annotating" / "vlm" / "fragment-0.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    vlm = Scripted()
    assert run(store, vlm).asked == {"ok": 16}
    assert sorted(vlm.asked, key=int)[0] == "5"
    assert statuses(store) == ["ok"] * 21


def test_a_server_that_is_gone_stops_the_run(tmp_path):
    store = Store.create(tmp_path / "s")
    with store.writing():
        store.append([record(number) for number in range(100)])
    gone = {str(number): Answer("failed", reason="No connection.") for number in range(5, 100)}
    vlm = Scripted(gone)
    with pytest.raises(DataError, match=rf"^{GIVE_UP_AFTER} rows failed .* No connection\. .*run the same command"):
        run(store, vlm, in_flight=2)
    assert len(vlm.asked) < 30
    again = Scripted()
    assert run(store, again).asked == {"ok": 95}
    assert set(statuses(store)) == {"ok"}


@pytest.mark.slow
def test_other_settings_ask_again_and_the_same_do_not(store):
    run(store, Scripted())
    for settings in ({"votes": 3}, {"pixels": 64 * 64}, {"seed": 1}, {"rules": RULES.with_guidance({}, "2")}):
        vlm = Scripted()
        assert sum(run(store, vlm, **settings).asked.values()) == 21, settings
        assert not run(store, Scripted(), **settings).asked, settings
    assert sum(run(store, Scripted(model="other")).asked.values()) == 21


def test_a_limit_is_kept_and_later_runs_go_on(store):
    assert run(store, Scripted(), limit=9).asked == {"ok": 9}
    assert statuses(store) == ["ok"] * 9 + [None] * 12
    done = run(store, Scripted(), limit=9)
    assert (done.asked, done.left) == ({"ok": 9}, 3)
    assert run(store, Scripted()).asked == {"ok": 3}


def test_tags_that_others_gave_stay_unless_told_otherwise(tmp_path):
    store = Store.create(tmp_path / "s")
    human, own = TagProvenance("human"), TagProvenance("vlm", "old")
    with store.writing():
        store.append(
            [
                record(0, tags=(1, 8), tag_provenance=human),
                record(1, tags=(1, 8), tag_provenance=TagProvenance("inverse", status=PARTIAL)),
                record(2, tags=(1, 8), tag_provenance=own),
                record(3),
            ]
        )
    assert run(store, Scripted({"3": Answer("refused", reason="No.")})).tagged == 2
    assert [one.tags for one in Store.open(store.uri).records(range(4))] == [(1, 8), TAGS, TAGS, None]
    assert run(store, Scripted(), seed=5, replace_tags=True).tagged == 4
    assert {one.tags for one in Store.open(store.uri).records(range(4))} == {TAGS}


def test_votes_are_counted_and_a_minority_of_bad_ones_is_borne(store):
    class Wavering(Scripted):
        async def ask(self, question: Question) -> Answer:
            given = await super().ask(question)
            if self.asked["0"] == 2 and "'edit number 0'" in str(question.parts):
                return Answer("invalid", text="?", reason="No JSON.")
            return given

    run(store, Wavering(), votes=3, limit=1)
    found = next(iter(read_annotations(store, "vlm")))
    assert found.tags == TAGS
    assert found.probabilities == tuple(float(index in TAGS) for index in range(18))
    assert [json.loads(text) if text != "?" else None for text in json.loads(found.raw)].count(VALUE) == 2


def test_a_picture_that_cannot_be_shown_is_refused_and_nothing_asked(tmp_path):
    store = Store.create(tmp_path / "s")
    with store.writing():
        store.append([record(0), Record(**{**vars(record(1)), "target": Picture(b"broken", 64, 64)})])
    vlm = Scripted()
    assert run(store, vlm).asked == {"ok": 1, "refused": 1}
    assert list(vlm.asked) == ["0"]


@pytest.mark.slow
def test_two_annotators_stand_side_by_side(store):
    run(store, Scripted())
    other = {**VALUE, "scope": "global editing"}
    run(store, Scripted({str(n): Answer("ok", value=other) for n in range(21)}), name="second")
    assert {found.tags for found in read_annotations(store, "vlm")} == {TAGS}
    assert {found.tags for found in read_annotations(store, "second")} == {(1, 6, 13)}
    assert Store.open(store.uri).records([0])[0].tags == TAGS


def test_the_oracle_knows_tagworld_and_nothing_else(tmp_path, store):
    made = Store.create(tmp_path / "world")
    with made.writing():
        made.append([row.records[0] for row in TagWorldSource(12, seed=4).rows()])
    assert annotate_store(made, OracleAnnotator, Plan("oracle")).asked == {"ok": 12}
    truth = list(read_annotations(made, "tags"))
    assert [one.tags for one in read_annotations(made, "oracle")] == [one.tags for one in truth]
    done = annotate_store(store, OracleAnnotator, Plan("oracle"))
    assert done.asked == {"refused": 21}
    assert done.reasons["refused", "Not a record of TagWorld but of 'test'."] == 21


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_several_processes_give_what_one_does(tmp_path, engine):
    made = []
    for name in ("one", "two"):
        store = Store.create(tmp_path / name)
        with store.writing():
            for start in (0, 10):
                rows = TagWorldSource(start + 10, seed=4).rows(start)
                store.append([row.records[0] for row in rows])
        made.append(store)
    annotate_store(made[0], OracleAnnotator, Plan("oracle"))
    assert annotate_store(made[1], OracleAnnotator, Plan("oracle"), engine=engine, workers=2).asked == {"ok": 20}
    one, two = (content_hash(Store.open(store.uri)) for store in made)
    assert one == two
    assert not (tmp_path / "two" / "annotating").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "Not A Name"}, "annotator's name"),
        ({"name": "tags"}, "annotator's name"),
        ({"in_flight": 0}, "in flight is 0"),
        ({"retry": frozenset({"ok"})}, "to ask again is 'ok'"),
        ({"votes": 0}, "votes is 0"),
        ({"votes": 2, "per_tag": True}, "one of the two"),
    ],
)
def test_settings_that_cannot_be(store, options, message):
    with pytest.raises(UsageError, match=message):
        run(store, Scripted(), **options)
