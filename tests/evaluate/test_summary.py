"""Means, intervals, differences and pages of runs: against plain loops, and nothing missing becomes a number."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.errors import ResultError, UsageError
from tagmoe.evaluate.answers.answer import NoPicture
from tagmoe.evaluate.benchmarks.cases import Case, Manifest, Prepared, digest_of_cases
from tagmoe.evaluate.comparison.page import FILES, PAGE, write_report
from tagmoe.evaluate.comparison.pairs import compare
from tagmoe.evaluate.comparison.summary import Summary, as_data, summarise
from tagmoe.evaluate.comparison.tables import scores_csv
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.metric import Measure
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.run_folder import Answer, Run, RunFacts, read_run
from tagmoe.evaluate.scoring import Score, score
from tagmoe.intervals import wilson

WORDS = "<b>Add</b> a {{ star }} & 'x'"


def made_run(folder: Path, prepared: Prepared, name: str, values: dict[int, dict[str, float]], version: int = 1) -> Run:
    """A run whose scores are these values of the metric `copying`, by the place of the case."""
    folder.mkdir()
    answers, rows = {}, []
    for place, case in enumerate(prepared.cases):
        has = place in values
        answers[case.key] = Answer(
            id=case.id,
            case=case.key,
            status="ok" if has else "failed",
            reason="" if has else "<script>",
            file=f"outputs/{case.key}.png" if has else None,
            pixels="p" if has else None,
        )
        if has:
            lacking = {"near_copy": {"status": "undefined", "reason": "r"}} if "near_copy" not in values[place] else {}
            row = Score(id=case.id, case=case.key, pixels="p", version=version, values=values[place], lacking=lacking)
            rows.append(row.model_dump_json())
    (folder / "scores").mkdir()
    (folder / "scores" / "copying.jsonl").write_text("\n".join(rows) + "\n")
    facts = RunFacts(benchmark="made", cases=prepared.manifest.digest, editor={"kind": "editor", "name": name}, seed=0)
    (folder / "run.json").write_text(facts.model_dump_json())
    (folder / "answers.jsonl").write_text("".join(answer.model_dump_json() + "\n" for answer in answers.values()))
    return read_run(folder, prepared)


def made_bench(folder: Path, count: int = 60, sources: int = 60) -> Prepared:
    """Cases of three tasks, unequal in number, without pictures; some share a source."""
    cases = tuple(
        Case(
            bench="made",
            id=f"c{place}",
            task="abc"[0 if place < 30 else 1 if place < 50 else 2],
            instruction=WORDS,
            source=f"s{place % sources}",
        )
        for place in range(count)
    )
    tasks = {task: sum(case.task == task for case in cases) for task in "abc"}
    return Prepared(
        folder,
        Manifest(
            benchmark="made",
            licence="none",
            made_from="a test",
            settings={},
            cases=count,
            tasks=tasks,
            digest=digest_of_cases(cases),
        ),
        cases,
    )


@pytest.fixture
def two(tmp_path: Path) -> tuple[Prepared, Summary, np.ndarray, np.ndarray]:
    """Two runs with values that are missing in different places."""
    prepared = made_bench(tmp_path)
    random = np.random.default_rng(0)
    tables = []
    for name, lost in (("a", {3, 4, 50}), ("b", {4, 5, 6})):
        values = random.random(60)
        values[list(lost)] = np.nan
        tables.append(values)
        rows = {p: {"changed": float(v), "near_copy": float(v < 0.3)} for p, v in enumerate(values) if np.isfinite(v)}
        made_run(tmp_path / name, prepared, name, rows)
    runs = [read_run(tmp_path / name, prepared) for name in "ab"]
    return prepared, summarise(prepared, runs, draws=2000), *tables


def test_means_are_of_cases_and_of_tasks_and_missing_ones_are_counted(two) -> None:
    prepared, summary, a, b = two
    tasks = np.array([case.task for case in prepared.cases])
    for editor, values in zip(summary.editors, (a, b), strict=True):
        figure = editor.figures["changed"]
        assert figure.micro.value == pytest.approx(np.nanmean(values))
        assert figure.macro.value == pytest.approx(np.mean([np.nanmean(values[tasks == task]) for task in "abc"]))
        assert (figure.cases, figure.applicable, figure.coverage) == (57, 60, 0.95)
        assert figure.lacking == {"no_output": 3}
        assert editor.statuses == {"ok": 57, "failed": 3}
        for task in "abc":
            own = values[tasks == task]
            assert editor.by_task[task]["changed"].value == pytest.approx(np.nanmean(own))
            assert editor.task_cases[task]["changed"] == np.isfinite(own).sum()


def test_intervals_are_those_of_means_of_drawn_cases(two) -> None:
    _, summary, a, _ = two
    values = a[np.isfinite(a)]
    error = values.std(ddof=1) / np.sqrt(len(values))
    found = summary.editors[0].figures["changed"].micro
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)
    outcome = summary.editors[0].figures["near_copy"].micro
    wanted = wilson(int((values < 0.3).sum()), len(values))
    assert (outcome.value, outcome.low, outcome.high) == (wanted.value, wanted.low, wanted.high)


def test_outcomes_of_a_task_have_an_interval_also_where_all_are_the_same(two) -> None:
    """A bootstrap of ten equal outcomes would say that there is no doubt at all."""
    prepared, _, _, _ = two
    run = made_run(
        prepared.folder / "sure", prepared, "sure", {p: {"changed": 0.5, "near_copy": 1.0} for p in range(57)}
    )
    summary = summarise(prepared, [run], draws=200)
    found = summary.editors[0].by_task["c"]["near_copy"]
    wanted = wilson(7, 7)
    assert (found.value, found.low, found.high) == (1.0, wanted.low, wanted.high)
    assert found.low < 0.7
    assert summary.applicable["c"]["near_copy"] == 10
    rows = [line.split(",") for line in scores_csv(summary).splitlines()]
    (row,) = [dict(zip(rows[0], one, strict=True)) for one in rows if one[1:3] == ["c", "near_copy"]]
    assert (row["n"], row["applicable"], row["coverage"]) == ("7", "10", "0.7")
    assert as_data(summary)["editors"]["sure"]["tasks"]["c"]["near_copy"]["applicable"] == 10


def test_no_bound_of_a_share_is_below_zero_by_rounding(tmp_path: Path) -> None:
    prepared = made_bench(tmp_path)
    run = made_run(tmp_path / "run", prepared, "a", {p: {"changed": float(p % 20 == 0) / 3} for p in range(60)})
    editor = summarise(prepared, [run], draws=2000).editors[0]
    for found in (editor.figures["changed"].micro, *(editor.by_task[task]["changed"] for task in "abc")):
        assert found.low >= 0
        assert str(found.low) != "-0.0"


def test_differences_are_paired(two) -> None:
    _, summary, a, b = two
    assert (summary.baseline, dict(summary.editors[0].differences)) == ("a", {})
    found = summary.editors[1].differences["changed"]
    both = (b - a)[np.isfinite(b - a)]
    assert (found.value.value, found.pairs) == (pytest.approx(both.mean()), 55)
    assert found.value.low < both.mean() < found.value.high
    # The same run twice: no difference, to the last digit.
    runs = [summary.editors[0].run] * 2
    same = summarise(summary.prepared, runs, draws=200)
    assert same.editors[1].differences["changed"].value.bounds == (0.0, 0.0)
    assert same.names == ("a (a) 1", "a (a) 2")


def test_cases_of_one_source_are_drawn_together(tmp_path: Path) -> None:
    """Ten groups of six equal values: the interval is that of ten cases, and no outcome is taken for independent."""
    prepared = made_bench(tmp_path, sources=10)
    values = np.random.default_rng(1).random(10)
    rows = {p: {"changed": float(values[p % 10]), "near_copy": float(values[p % 10] < 0.5)} for p in range(60)}
    figures = summarise(prepared, [made_run(tmp_path / "run", prepared, "a", rows)]).editors[0].figures
    width = figures["changed"].micro.high - figures["changed"].micro.low
    assert width == pytest.approx(2 * 2.26 * values.std(ddof=1) / np.sqrt(10), rel=0.15)
    independent = wilson(30, 60)
    grouped = figures["near_copy"].micro
    assert grouped.high - grouped.low > 1.5 * (independent.high - independent.low)


def test_cases_that_a_benchmark_groups_are_drawn_together(tmp_path: Path) -> None:
    """Turns of one picture have other sources, since one becomes the next; the benchmark names their group."""
    prepared = made_bench(tmp_path)
    cases = tuple(c.model_copy(update={"meta": {"group": p % 10}}) for p, c in enumerate(prepared.cases))
    manifest = prepared.manifest.model_copy(update={"digest": digest_of_cases(cases)})
    grouped = Prepared(tmp_path, manifest, cases)
    rows = {p: {"changed": float(np.random.default_rng(p % 10).random())} for p in range(60)}
    alone = summarise(prepared, [made_run(tmp_path / "alone", prepared, "a", rows)])
    together = summarise(grouped, [made_run(tmp_path / "together", grouped, "a", rows)])
    assert (alone.groups, together.groups) == (60, 10)
    widths = [s.editors[0].figures["changed"].micro for s in (alone, together)]
    assert widths[1].high - widths[1].low > 1.8 * (widths[0].high - widths[0].low)


def test_a_measure_without_any_value_has_no_mean(tmp_path: Path) -> None:
    prepared = made_bench(tmp_path)
    run = made_run(tmp_path / "run", prepared, "a", {p: {"changed": 0.5} for p in range(60)})
    figure = summarise(prepared, [run]).editors[0].figures["near_copy"]
    assert (figure.micro.value, figure.macro.value, figure.cases) == (None, None, 0)
    assert figure.lacking == {"undefined": 60}


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    prepared = made_bench(tmp_path)
    rows = {p: {"changed": 0.5, "near_copy": 0.0} for p in range(60)}
    now, old = (
        made_run(tmp_path / "now", prepared, "a", rows),
        made_run(tmp_path / "old", prepared, "b", rows, version=99),
    )
    with pytest.raises(ResultError, match=r"scored by version 99 of the metric 'copying'.*run tagmoe eval score again"):
        summarise(prepared, [now, old])
    (tmp_path / "old" / "scores" / "copying.jsonl").unlink()
    with pytest.raises(ResultError, match="has no scores; run tagmoe eval score"):
        summarise(prepared, [now, old])
    with pytest.raises(ResultError, match=r"'.*old' has no scores of the metric 'copying'"):
        compare(prepared, now, old)
    with pytest.raises(UsageError, match="There is no run 'c' to compare with; give one of a"):
        summarise(prepared, [now], baseline="c")


class HalfDone:
    """Gives the target of every second case, and fails for the others."""

    gives_black = False

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def facts(self):
        return {"kind": "editor", "name": "<i>half</i>", "weights": None, "settings": {"steps": 1}}

    def pictures_of(self, case: Case) -> int:
        return 0

    def __call__(self, cases, seeds):
        bad = NoPicture("failed", "<script>alert(1)</script>")
        return [bad if place % 2 else self._prepared.picture(str(case.target)) for place, case in cases]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path, dict]:
    root = tmp_path_factory.mktemp("report")
    prepared = tagworld_bench(root / "bench")
    half = HalfDone(prepared)
    generate(prepared, half, RunFacts.of(prepared, half), root / "half")
    runs = [anchor_run(prepared, "copy", root / "copy"), read_run(root / "half", prepared)]
    for run in runs:
        score(prepared, run, make_metrics())
    summary = summarise(prepared, runs, draws=200)
    (root / "out").mkdir()
    return summary, root / "out", write_report(summary, root / "out", pictures=5, about={"command": "c", "date": "d"})


def test_the_page_needs_nothing_and_escapes_what_comes_from_outside(reported) -> None:
    _, folder, _ = reported
    page = (folder / PAGE).read_text()
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<i>half" not in page
    assert 'src="http' not in page
    assert page.count('class="card" style') == 5
    assert "12 cases that failed" in page
    assert "n 13 of 25" in page


def test_tables_hold_the_same_numbers_and_no_number_for_what_is_missing(reported) -> None:
    summary, folder, data = reported
    assert json.loads((folder / "report.json").read_text()) == data
    half = data["editors"]["<i>half</i>"]
    assert half["figures"]["success"]["micro"]["value"] == 1.0
    assert (half["figures"]["success"]["n"], half["figures"]["success"]["coverage"]) == (13, 13 / 25)
    assert half["statuses"] == {"ok": 13, "failed": 12}
    rows = list(csv.DictReader(io.StringIO((folder / "scores.csv").read_text())))
    (row,) = [
        r
        for r in rows
        if (r["editor"], r["task"], r["measure"], r["mean"]) == ("<i>half</i>", "all", "success", "micro")
    ]
    assert (float(row["value"]), row["n"], row["applicable"]) == (1.0, "13", "25")
    cases = list(csv.DictReader(io.StringIO((folder / "cases.csv").read_text())))
    assert len(cases) == 50
    assert {r["success"] for r in cases if r["status"] in ("failed", "inapplicable")} == {""}
    assert "\\begin{tabular}" in (folder / "scores.tex").read_text()
    assert r"| \<i\>half\</i\> | 100.0 (" in (folder / "scores.md").read_text()
    assert isinstance(summary.measures["success"], Measure)
