"""Packed rows are the rows that were put in, in a tenth of the memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import pytest
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.evaluate.benchmarks.cases import digest_of
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.packed_rows import PackedRows, RowsInOrder
from tagmoe.evaluate.run_folder import Answer, by_case, packed_by_case
from tagmoe.evaluate.scoring import Lacking, Score, score


def row(number: int, **changes: object) -> Score:
    given = {
        "id": f"case-{number:06}",
        "case": digest_of(number)[:24],
        "pixels": digest_of([number]),
        "version": 1,
        "values": {"a": number / 7, "b": 1e-300 * number},
        "lacking": {"c": Lacking(status="undefined", reason="nothing is left \u2014 \ud55c\uad6d\uc5b4")},
        "resized": ("source",),
    }
    return Score.model_validate({**given, **changes})


def test_what_comes_out_is_what_went_in() -> None:
    rows = [row(number) for number in range(50)] + [row(60, values={}, lacking={}, resized=()), row(61, id="x" * 9000)]
    packed = packed_by_case(Score, rows)
    assert dict(packed) == by_case(rows)
    assert list(packed.values()) == rows, "in the order in which they came"
    ordered = RowsInOrder(packed, [rows[7].case, rows[2].case])
    assert (list(ordered), len(ordered), ordered[-1]) == ([rows[7], rows[2]], 2, rows[2])


def test_a_row_is_replaced_by_one_of_a_higher_rank_and_can_be_dropped() -> None:
    old, new = row(1), row(1, version=2, values={"a": 3.0})
    for rows in ([old, new], [new, old]):
        assert dict(packed_by_case(Score, rows)) == {new.case: new}
    packed = packed_by_case(Score, [old])
    assert (old.case in packed, "other" in packed, packed.get("other")) == (True, False, None)
    assert (packed.pop(old.case), len(packed), packed.pop(old.case, None)) == (old, 0, None)
    with pytest.raises(KeyError):
        packed[old.case]


def memory_of(found: Mapping[str, Score]) -> float:
    """Bytes a row, filled from rows that nobody else holds."""
    tracemalloc.start()
    for number in range(3000):
        one = row(number)
        found[one.case] = one  # type: ignore[index]
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / 3000


def test_rows_take_a_few_hundred_bytes() -> None:
    packed, plain = memory_of(PackedRows(Score)), memory_of({})
    assert packed < 500
    assert plain > 4 * packed


def test_the_digest_of_scores_is_that_of_all_their_values(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    bench = tagworld_bench(folder / "bench")
    run = anchor_run(bench, "copy", folder / "copy")
    found = score(bench, run, make_metrics(["target", "copying"]))
    whole = {name: [one.model_dump() for one in rows] for name, rows in found.scores.items()}
    assert found.digest == digest_of(whole)
    assert score(bench, run, []).digest == digest_of({})
    assert isinstance(run.answers, PackedRows)
    assert all(isinstance(answer, Answer) for answer in run.answers.values())
