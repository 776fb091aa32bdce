"""Folders of benchmarks and runs that were changed by hand: found, and never a number."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.errors import DataError, ResultError
from tagmoe.evaluate.benchmarks.cases import CASES, MANIFEST, Case, Prepared, digest_of_cases, read_prepared
from tagmoe.evaluate.comparison.page import PAGE, write_report
from tagmoe.evaluate.comparison.summary import summarise
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.run_folder import Answer, Lines, read_rows, read_run
from tagmoe.evaluate.scoring import Score, score


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld")


@pytest.fixture
def bench(kept: Prepared, tmp_path: Path) -> Prepared:
    """A copy of its own."""
    return read_prepared(Path(shutil.copytree(kept.folder, tmp_path / "bench")))


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]], dict[str, Any]], None]) -> None:
    """Change the cases and the manifest, with a digest that fits them."""
    cases = [json.loads(line) for line in (folder / CASES).read_text().splitlines()]
    manifest = json.loads((folder / MANIFEST).read_text())
    change(cases, manifest)
    manifest["digest"] = digest_of_cases(map(Case.model_validate, cases))
    (folder / CASES).write_text("".join(json.dumps(case) + "\n" for case in cases))
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_another_picture_in_the_place_of_a_case_is_found(bench: Prepared, tmp_path: Path) -> None:
    case = next(case for case in bench.cases if case.task == "recolour")
    shutil.copy(bench.folder / str(case.target), bench.folder / str(case.source))
    run = anchor_run(bench, "copy", tmp_path / "run")
    assert run.answers[case.key].status == "failed"
    assert "is not the picture that was prepared" in run.answers[case.key].reason


def test_a_picture_outside_the_folder_is_no_picture_of_it(bench: Prepared) -> None:
    Image.new("RGB", (64, 64), "red").save(bench.folder.parent / "private.png")
    rewrite(bench.folder, lambda cases, _: cases[1].update(refs=["../private.png"]))
    with pytest.raises(DataError, match=r"'\.\./private\.png' .* is none that tagmoe eval prepare has written"):
        read_prepared(bench.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda cases, manifest: manifest["tasks"].pop("add"),
        lambda cases, manifest: manifest["tasks"].update(add=7),
        lambda cases, manifest: manifest.update(cases=7),
        lambda cases, manifest: (cases.clear(), manifest.update(cases=0, tasks={})),
    ],
)
def test_a_manifest_of_other_tasks_than_its_cases_is_refused(bench: Prepared, change: Any) -> None:
    rewrite(bench.folder, change)
    with pytest.raises(DataError, match="are not those of its manifest"):
        read_prepared(bench.folder)


def test_a_report_shows_that_a_picture_of_the_benchmark_is_gone(bench: Prepared, tmp_path: Path) -> None:
    run = anchor_run(bench, "copy", tmp_path / "run")
    score(bench, run, make_metrics(["copying"]))
    (bench.folder / str(bench.cases[1].source)).unlink()
    (tmp_path / "page").mkdir()
    write_report(summarise(bench, [run], draws=100), tmp_path / "page", pictures=25, about={})
    assert "unreadable" in (tmp_path / "page" / PAGE).read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"values": {"changed": 0.5, "near_copy": 7.0}},
        {"values": {"changed": 0.5, "near_copy": 0.5}},
        {"values": {"changed": -0.5, "near_copy": 0.0}},
        {"values": {"changed": 0.5}},
        {"values": {"changed": 0.5, "near_copy": 0.0, "other": 1.0}},
        {"lacking": {"changed": {"status": "undefined", "reason": ""}}},
    ],
)
def test_scores_that_the_metric_cannot_give_are_refused_and_made_again(
    bench: Prepared, tmp_path: Path, change: dict[str, Any]
) -> None:
    run = anchor_run(bench, "target", tmp_path / "run")
    whole = score(bench, run, make_metrics(["copying"])).digest
    file = run.folder / "scores" / "copying.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1].update(change)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        ResultError, match=f"The scores of '{rows[1]['id']}' .* are none that the metric 'copying' gives"
    ):
        summarise(bench, [run], draws=100)
    again = score(bench, run, make_metrics(["copying"]))
    assert (again.new, again.digest) == (1, whole)


class Odd:
    """A metric that gives what it likes."""

    name = "odd"
    version = 1
    measures = (Measure("a", "higher", "", kind="outcome"), Measure("b", "higher", ""))

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def __call__(self, pair: object) -> dict[str, Any]:
        return self._given


@pytest.mark.parametrize(
    "given", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": None}, {"a": 1, "b": ""}]
)
def test_a_metric_that_gives_other_values_than_it_says_fails_and_stops_nothing(
    bench: Prepared, tmp_path: Path, given: dict[str, Any]
) -> None:
    found = score(bench, anchor_run(bench, "target", tmp_path / "run"), [Odd(given)], tasks=["add"])
    assert [one.status for one in found.failed] == ["odd failed"]


def test_a_metric_may_give_numbers_of_numpy_and_only_outcomes_that_are_some(bench: Prepared, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    run = anchor_run(bench, "target", tmp_path / "run")
    (row,) = score(bench, run, [Odd({"a": np.bool_(True), "b": np.float32(2)})], tasks=["add"]).scores["odd"]
    assert row.values == {"a": 1.0, "b": 2.0}
    (row,) = score(bench, run, [Odd({"a": 0.5, "b": 2})], tasks=["move"]).scores["odd"]
    assert (row.values, row.lacking["a"].reason) == ({"b": 2.0}, "the value is 0.5, not 0 or 1")


def test_a_file_that_was_replaced_while_it_was_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command ends between the moments in which another opens the file and gets the lock."""
    import fcntl

    path, lock = tmp_path / "answers.jsonl", fcntl.flock
    rows = [Answer(id=name, case=name, status="failed") for name in "ab"]

    def replaced_before(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        (tmp_path / "new").write_text(rows[0].model_dump_json() + "\n")
        os.replace(tmp_path / "new", path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", replaced_before)
    lines = Lines(path)
    lines.add(rows[1])
    lines.close()
    assert list(read_rows(tmp_path, "answers", Answer)) == rows


def test_scores_of_one_run_are_of_their_kind(bench: Prepared, tmp_path: Path) -> None:
    run = anchor_run(bench, "copy", tmp_path / "run")
    metrics = {metric.name: metric for metric in make_metrics()}
    score(bench, run, list(metrics.values()))
    for name, metric in metrics.items():
        rows = list(read_rows(read_run(run.folder).folder / "scores", name, Score))
        assert rows
        assert all(row.is_of(metric.measures) for row in rows)
