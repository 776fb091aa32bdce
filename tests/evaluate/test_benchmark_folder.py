"""A prepared benchmark: what is in it, and each way in which its files can be wrong, in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.prepared_benchmarks import tagworld_bench

from tagmoe.errors import DataError, TagMoEError, UsageError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase, prepare
from tagmoe.evaluate.benchmarks.cases import CASES, MANIFEST, Prepared, read_prepared
from tagmoe.evaluate.benchmarks.tagworld import TagWorld
from tagmoe.evaluate.tagworld import cases
from tagmoe.world import TASKS


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld", 2)


@pytest.mark.slow
def test_the_cases_are_those_that_the_demo_draws(bench: Prepared) -> None:
    drawn = cases(2, 0)
    assert [(case.task, case.instruction) for case in bench.cases] == [(one.task, one.instruction) for one in drawn]
    assert list(bench.manifest.tasks) == list(TASKS)
    for case, one in zip(bench.cases, drawn, strict=True):
        given = [*([case.source] if case.source else []), *case.refs]
        assert all(np.array_equal(bench.picture(n), s) for n, s in zip(given, one.sources, strict=True))
        assert case.target is not None
        assert np.array_equal(np.asarray(bench.picture(case.target)), one.target)
        assert (case.source is not None) == (case.mask is not None) == one.is_edit


def test_a_case_has_another_key_when_anything_in_it_changes(bench: Prepared) -> None:
    case = bench.cases[5]
    assert len({one.key for one in bench.cases}) == len(bench.cases)
    assert case.model_copy(update={"instruction": "another"}).key != case.key
    assert case.model_copy(update={"target": bench.cases[6].target}).key != case.key
    assert case.model_copy().key == case.key


def test_tasks_and_limit_choose_cases_and_keep_their_places(bench: Prepared) -> None:
    assert [(place, case.task) for place, case in bench.chosen(["remove", "add"], 1)] == [(2, "add"), (4, "remove")]
    with pytest.raises(UsageError, match=r"The tasks name 'paint'; give some of generate, add"):
        bench.chosen(["paint"])
    with pytest.raises(UsageError, match="name nothing"):
        bench.chosen([])


class Twice(TagWorld):
    """Gives its first case again at the end, and a row that is no case."""

    def rows(self):
        rows = list(super().rows())
        return iter([*rows, rows[0], Row("odd", {}), Row("", {})])

    def case(self, row: Row, pictures: Pictures):
        if row.id == "odd":
            raise UnusableCase("the task 'juggle' is unknown")
        return super().case(row, pictures)


def test_rows_that_give_no_case_are_listed_and_the_rest_is_prepared(tmp_path: Path) -> None:
    manifest = prepare(Twice(1), tmp_path)
    assert manifest.cases == len(TASKS) == len(read_prepared(tmp_path).cases)
    assert [(one.row, one.id, one.reason) for one in manifest.left_out] == [
        (26, "generate-0-0", "its id stands twice in the files"),
        (27, "odd", "the task 'juggle' is unknown"),
        (28, "", "it has no id"),
    ]


def manifest_of(folder: Path, **changes: object) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **changes}))


def first_twice(folder: Path) -> None:
    lines = (folder / CASES).read_text().splitlines(keepends=True)
    (folder / CASES).write_text("".join([*lines, lines[0]]))


def other_word(folder: Path) -> None:
    (folder / CASES).write_text((folder / CASES).read_text().replace('"task":"add"', '"task":"paint"'))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda folder: manifest_of(folder, format=2), DataError, r"is of version 2, and this tagmoe reads 1"),
        (lambda folder: manifest_of(folder, cases="many"), DataError, "is not one of this version"),
        (lambda folder: (folder / MANIFEST).write_text("{"), DataError, "cannot be read"),
        (lambda folder: (folder / MANIFEST).unlink(), UsageError, "is no prepared benchmark"),
        (first_twice, DataError, "'generate-0-0' is in .* twice"),
        (other_word, DataError, "are not those of its manifest.json"),
        (lambda folder: (folder / CASES).write_text("{}\n"), DataError, "The cases in .* cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(
    bench: Prepared, tmp_path: Path, damage: Callable[[Path], object], error: type[TagMoEError], words: str
) -> None:
    folder = tmp_path / "bench"
    shutil.copytree(bench.folder, folder)
    damage(folder)
    with pytest.raises(error, match=words):
        read_prepared(folder)


def test_the_digest_of_tagworld_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Results of others are compared by it, so it depends on pixels alone and on no compressor."""
    bench = tagworld_bench(tmp_path / "bench", 1)
    assert {path.suffix for path in bench.folder.glob("pictures/*/*")} == {".bmp"}
    assert bench.manifest.digest == "0aff6ba12a57d10d0ae35fe3302017b45268a046a7b8b630f1bf540ce2166ce1"
