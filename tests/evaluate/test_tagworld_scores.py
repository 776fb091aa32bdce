"""Scoring on TagWorld: cases, batching, means and intervals, with editors of known quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.prepared_benchmarks import tagworld_bench

from tagmoe.editor import run_cases
from tagmoe.errors import UsageError
from tagmoe.evaluate.answers.answer import AskedEditor
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.oracle import Oracle
from tagmoe.evaluate.run_folder import RunFacts, read_run
from tagmoe.evaluate.scoring import score as score_run
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.evaluate.tagworld_pipeline import edit, validator
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.routing.case_routing import record
from tagmoe.world import TASKS


@pytest.mark.slow
def test_cases_are_repeatable_test_cases_of_every_task() -> None:
    first, again = cases(2, 5), cases(2, 5)
    assert [case.instruction for case in first] == [case.instruction for case in again]
    assert [case.task for case in first] == [task for task in TASKS for _ in range(2)]
    assert {case.split for case in first} == {"test"}
    assert len({case.index for case in first}) == len(first)
    assert [case.instruction for case in cases(2, 6)] != [case.instruction for case in first]


def test_fewer_cases_are_the_first_of_more() -> None:
    few, more = cases(1, 0, ["add", "light"]), cases(3, 0, ["add", "light"])
    assert [case.index for case in few] == [more[0].index, more[3].index]
    assert few[0].instruction == more[0].instruction


@pytest.mark.parametrize(("per_task", "tasks"), [(0, None), (-1, None), (1, ["fly"])])
def test_bad_requests_for_cases_are_refused(per_task: int, tasks: list[str] | None) -> None:
    with pytest.raises(UsageError):
        cases(per_task, 0, tasks)


class Perfect:
    """Returns the target of the case that a seed names, and notes how it was called."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples
        self.calls: list[tuple[int, set[int]]] = []

    def __call__(self, instructions: Any, images: Any, seeds: Any) -> list[np.ndarray]:
        self.calls.append((len(instructions), {len(pictures) for pictures in images}))
        assert [self.samples[seed].instruction for seed in seeds] == list(instructions)
        return [self.samples[seed].target for seed in seeds]


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_every_case_gets_its_own_picture_whatever_the_batch(batch: int) -> None:
    samples = cases(1, 1)
    editor = Perfect(samples)
    done: list[int] = []
    images = run_cases(editor, samples, batch=batch, on_batch=done.append)
    assert all((image == case.target).all() for image, case in zip(images, samples, strict=True))
    assert all(size <= batch and len(references) == 1 for size, references in editor.calls)
    assert done == sorted(done)
    assert done[-1] == len(samples)


def test_true_targets_score_one_everywhere() -> None:
    samples = cases(2, 3)
    scores = score(samples, [case.target for case in samples])
    assert scores.success.value == scores.unchanged == scores.subject == scores.face == scores.style == 1.0
    assert scores.success.n == len(samples)
    assert scores.success.low < 1.0 == scores.success.high
    assert [task.task for task in scores.tasks] == list(TASKS)
    assert {task.n for task in scores.tasks} == {2}


@pytest.mark.slow
def test_an_editor_that_does_nothing_keeps_all_and_succeeds_never() -> None:
    samples = [case for case in cases(2, 4) if case.source_scene is not None and case.is_edit]
    scores = score(samples, [case.sources[0] for case in samples])
    assert scores.success.value == 0.0
    assert scores.unchanged == 1.0


def test_half_right_scores_half_and_each_slice_counts_its_cases() -> None:
    samples = cases(4, 2, ["recolour"])
    images = [case.target if i % 2 else case.sources[0] for i, case in enumerate(samples)]
    scores = score(samples, images)
    assert scores.success.value == scores.tasks[0].success == 0.5
    for one, other in (("seen phrasing", "held-out phrasing"), ("seen combination", "held-out combination")):
        assert scores.held_out[one].n + scores.held_out[other].n == len(samples)
    assert scores.held_out["held-out phrasing"].n == sum(case.held_out_paraphrase for case in samples)


def test_a_task_that_makes_a_whole_picture_has_nothing_unchanged() -> None:
    samples = cases(1, 0, ["generate"])
    scores = score(samples, [case.target for case in samples])
    assert scores.unchanged is None
    assert scores.tasks[0].unchanged is None
    assert scores.face is None


def test_no_cases_are_refused() -> None:
    with pytest.raises(UsageError, match="no cases"):
        score([], [])


@pytest.mark.slow
def test_a_pipeline_gives_the_same_pictures_and_routing_in_any_batch(pipeline: Any) -> None:
    samples = cases(1, 0, ["generate", "add", "recolour", "light"])
    whole = edit(pipeline, samples, steps=2, read=record)
    apart = edit(pipeline, samples, steps=2, batch=1, read=record)
    assert whole.routing is not None
    assert apart.routing is not None
    for a, b in zip(whole.images, apart.images, strict=True):
        assert a.shape == (64, 64, 3)
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 2
    assert whole.routing[0].references_LN is None
    assert whole.routing[1].references_LN is not None
    for a, b in zip(whole.routing, apart.routing, strict=True):
        assert np.abs(a.maps_LhwN - b.maps_LhwN).max() < 1e-2
        assert np.allclose(a.target_LN.sum(axis=1), 1.0)


def test_without_routing_none_is_kept(pipeline: Any) -> None:
    assert edit(pipeline, cases(1, 0, ["add"]), steps=1).routing is None


@pytest.mark.slow
def test_validation_writes_a_sheet_and_returns_two_scores(pipeline: Any, tmp_path: Path) -> None:
    scores = validator(1)(pipeline, 12, tmp_path / "validation")
    assert set(scores) == {"success", "unchanged"}
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    assert [path.name for path in (tmp_path / "validation").iterdir()] == ["00000012.png"]
    with Image.open(tmp_path / "validation" / "00000012.png") as sheet:
        assert sheet.width > 4 * 3 * 64
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 10


def test_eval_and_demo_give_the_same_numbers(pipeline: Any, tmp_path: Path) -> None:
    """The same pictures from the same seeds, and the same values, whether they are kept in folders or in memory."""
    bench = tagworld_bench(tmp_path / "bench", 1, seed=3)
    samples = cases(1, 3)
    images = edit(pipeline, samples, steps=1, seed=3).images
    scores = score(samples, images)
    answers = AskedEditor(pipeline_editor(pipeline, steps=1), bench, {"name": "tiny", "weights": None, "settings": {}})
    generate(bench, answers, RunFacts.of(bench, answers, 3), tmp_path / "run", batch=32)
    run = read_run(tmp_path / "run", bench)
    kept = [run.picture(run.answers[case.key]) for case in bench.cases]
    assert all(np.array_equal(picture, image) for picture, image in zip(kept, images, strict=True))
    rows = score_run(bench, run, [Oracle()]).scores["oracle"]
    for row, judged in zip(rows, scores.judged, strict=True):
        assert row.values == {name: value for name, value in asdict(judged).items() if value is not None}
