"""The loop over rule sets: what is asked, what is adopted, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from support.annotated_stores import annotate, stored, truth, world_records
from support.stored_content import content_hash

from tagmoe.annotation.answer import Annotation, annotators, read_annotations
from tagmoe.annotation.quality.agreement import as_bits
from tagmoe.annotation.quality.gold import gold_set
from tagmoe.annotation.quality.refine import ANSWERS, NOTE, Version, refine
from tagmoe.data.inverse.invert import Rules, invert
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.intervals import Bootstrap
from tagmoe.tags import index

FEW = Bootstrap(100)


class Tagger:
    """Gives the true tags but those that its rules leave out, by native task; counts whom it was asked about."""

    def __init__(self, name: str, leaves_out: dict[str, str], *, fails: int = 0) -> None:
        self.asked: list[str] = []
        self._name, self._out, self._fails = name, leaves_out, fails
        self.version = Version(name, f"digest {name}", self._keys, self._ask)

    def _keys(self, records: Sequence[Record]) -> list[str]:
        return [f"{record.id} without {self._out.get(record.native_task, '')}" for record in records]

    def _ask(self, records: Sequence[Record], keep: Callable[[Annotation], None]) -> None:
        for record, key in zip(records, self._keys(records), strict=True):
            self.asked.append(record.id)
            if self._fails:
                self._fails -= 1
                keep(Annotation("failed", reason="The server hangs.", key=key))
                continue
            out = self._out.get(record.native_task)
            tags = tuple(tag for tag in record.tags or () if out is None or tag != index(out))
            keep(Annotation("ok", tags=tags, key=key, model="tagger", rules_version=self._name))


def run(store, old, new, folder, **options):
    gold = gold_set(store, "gold")
    names = {"annotator": "tagger", "gold_name": "gold", "folder": folder, "bootstrap": FEW}
    return refine(store, gold, old.version, new.version, **names, **options)


@pytest.fixture
def store(tmp_path):
    return annotate(stored(tmp_path / "s", world_records(40, tasks="add,recolour,style")), gold=truth)


WORSE, BETTER = {"add": "object editing"}, {}


def test_a_better_version_is_adopted_and_only_what_changes_is_asked(store, tmp_path):
    old, new = Tagger("1", WORSE), Tagger("2", BETTER)
    decision = run(store, old, new, tmp_path)
    adds = [record.id for record in store.records(range(40)) if record.native_task == "add"]
    assert decision.adopted
    assert decision.reasons == ()
    assert len(old.asked) == 40
    assert sorted(new.asked) == sorted(adds)
    assert (decision.asked, decision.reused) == (len(adds), 40 - len(adds))
    given = list(read_annotations(store, "tagger"))
    assert [as_bits(one.tags) for one in given] == [as_bits(one.tags) for one in read_annotations(store, "gold")]
    assert {one.rules_version for one in given} == {"1", "2"}
    record = json.loads(decision.file.read_text())
    assert record["decision"] == "adopted"
    assert record["micro_f1"]["after"] == 1 > record["micro_f1"]["before"]
    assert record["f1_by_tag"]["object editing"] == {"before": 0, "after": 1}
    assert record["new"]["statuses"] == {"ok": 40}
    assert record["date"].startswith("20")
    assert store.note(NOTE + "tagger")["version"] == "2"


def test_a_worse_version_is_refused_and_leaves_the_store_as_it_was(store, tmp_path):
    before = content_hash(store)
    decision = run(store, Tagger("1", BETTER), Tagger("2", WORSE), tmp_path)
    assert not decision.adopted
    assert decision.reasons[0].startswith("gold F1 of all tags falls from 1.000 to 0.9")
    record = json.loads(decision.file.read_text())
    assert (record["decision"], record["reasons"]) == ("refused", list(decision.reasons))
    store = Store.open(store.uri)
    assert content_hash(store) == before
    assert annotators(store) == ["gold"]
    assert store.note(NOTE + "tagger") is None


def test_answers_of_the_column_are_not_asked_again(store, tmp_path):
    first = run(store, Tagger("1", WORSE), Tagger("2", BETTER), tmp_path)
    (tmp_path / ANSWERS).unlink()
    old, new = Tagger("2", BETTER), Tagger("3", {"style": "style transfer"})
    second = run(store, old, new, tmp_path)
    assert first.adopted
    assert not second.adopted
    assert old.asked == []
    assert 0 < len(new.asked) == second.asked < 40
    assert first.file != second.file


def test_rows_that_could_not_be_asked_stop_the_decision_and_are_asked_again(store, tmp_path):
    before = content_hash(store)
    with pytest.raises(DataError, match=r"3 of 40 rows could not be asked \(The server hangs\); nothing was decided"):
        run(store, Tagger("1", WORSE), Tagger("2", BETTER, fails=3), tmp_path)
    assert not list(tmp_path.glob("decision-*"))
    assert content_hash(store) == before
    old, new = Tagger("1", WORSE), Tagger("2", BETTER)
    assert run(store, old, new, tmp_path).adopted
    assert old.asked == []
    assert len(new.asked) == 3


@pytest.mark.parametrize("half", ["", '{"tags": [1'])
def test_a_killed_run_asks_nothing_twice(store, tmp_path, half):
    class Killed(Tagger):
        def _ask(self, records, keep):
            def last(given):
                keep(given)
                if len(self.asked) == 13:
                    raise KeyboardInterrupt

            super()._ask(records, last)

    killed = Killed("1", WORSE)
    with pytest.raises(KeyboardInterrupt):
        run(store, killed, Tagger("2", BETTER), tmp_path)
    with (tmp_path / ANSWERS).open("a") as out:
        out.write(half)
    old, new = Tagger("1", WORSE), Tagger("2", BETTER)
    assert run(store, old, new, tmp_path).adopted
    assert len(killed.asked) == 13
    assert not set(killed.asked) & set(old.asked)
    assert len(killed.asked) + len(old.asked) == 40
    assert all(json.loads(line) for line in (tmp_path / ANSWERS).read_text().splitlines())


def test_a_kill_in_the_middle_of_adopting_is_finished_by_the_next_run(tmp_path, monkeypatch):
    made = annotate(stored(tmp_path / "s", world_records(24, tasks="add,style"), rows=8), gold=truth)
    fill, left = Store.fill, [2]

    def die(self, number, values):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        fill(self, number, values)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "fill", die)
        with pytest.raises(KeyboardInterrupt):
            run(made, Tagger("1", WORSE), Tagger("2", BETTER), tmp_path)
    made = Store.open(tmp_path / "s")
    old, new = Tagger("1", WORSE), Tagger("2", BETTER)
    assert run(made, old, new, tmp_path).adopted
    assert old.asked == new.asked == []
    assert all(one is not None and one.tags is not None for one in read_annotations(made, "tagger"))


def test_an_inverse_that_is_tagged_otherwise_is_a_reason(tmp_path):
    made = stored(tmp_path / "s", world_records(60, tasks="add,move"))
    assert invert(made, Rules()).made.total() >= 4
    made = annotate(Store.open(made.uri), gold=lambda record: truth(record) if record.operation == "none" else None)

    class Inverses(Tagger):
        """The true tags, and on inverses another type."""

        def _ask(self, records, keep):
            turned = [replace(r, tags=(*(r.tags or ()), index("pose editing"))) for r in records]
            pick = [b if a.operation == "inverse" else a for a, b in zip(records, turned, strict=True)]
            super()._ask(pick, keep)

        def _keys(self, records):
            return [f"{key} turned" for key in super()._keys(records)]

    decision = run(made, Tagger("1", BETTER), Inverses("2", BETTER), tmp_path)
    assert decision.comparison.pairs >= 4
    assert decision.comparison.micro_f1.difference.value == 0
    assert decision.reasons == ("inverse-consistency falls from 1.000 to 0.000",)


def test_two_versions_must_be_two(store, tmp_path):
    one = Tagger("1", WORSE)
    with pytest.raises(UsageError, match="Both rule sets are the same"):
        run(store, one, Tagger("1", WORSE), tmp_path)
    other = Tagger("1", BETTER)
    other.version = replace(other.version, digest="another")
    with pytest.raises(UsageError, match="raise the version"):
        run(store, one, other, tmp_path)


def test_a_damaged_file_of_answers_is_said(store, tmp_path):
    (tmp_path / ANSWERS).write_text("no json\n")
    with pytest.raises(DataError, match="damaged line"):
        run(store, Tagger("1", WORSE), Tagger("2", BETTER), tmp_path)
