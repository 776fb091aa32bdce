"""Scores: kept one by one, equal after a stop, made again for what has changed; a metric that fails gives no number."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.metrics.metric import Measure, Pair
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.run_folder import Run, digest_of_pixels, read_run
from tagmoe.evaluate.scoring import read_scores, score

FEW = ["source", "copying"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld")


@pytest.fixture
def run(bench: Prepared, tmp_path: Path) -> Run:
    return anchor_run(bench, "shuffled", tmp_path / "run")


def test_scoring_that_was_stopped_goes_on_and_ends_as_if_it_had_not(bench: Prepared, run: Run, tmp_path: Path) -> None:
    other = anchor_run(bench, "shuffled", tmp_path / "other")
    whole = score(bench, other, make_metrics(FEW))

    def stop(done: int) -> None:
        if done in (7, 15):
            with (run.folder / "scores" / "source.jsonl").open("ab") as file:
                file.write(b'{"id":"ha')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(bench, run, make_metrics(FEW), on_cases=stop)
    with pytest.raises(KeyboardInterrupt):
        score(bench, run, make_metrics(FEW), on_cases=lambda done: stop(done) if done == 15 else None)
    ended = score(bench, run, make_metrics(FEW))
    assert ended.new == 2 * (len(bench.cases) - 15)
    assert ended.digest == whole.digest
    for name in FEW:
        file = f"scores/{name}.jsonl"
        assert (run.folder / file).read_bytes() == (other.folder / file).read_bytes()


def test_an_output_that_changed_is_scored_again_and_only_that(bench: Prepared, run: Run) -> None:
    score(bench, run, make_metrics(FEW))
    case = bench.chosen(["add"])[0][1]
    answer = run.answers[case.key]
    picture = Image.new("RGB", (64, 64), "red")
    picture.save(run.folder / str(answer.file))
    damaged = score(bench, run, make_metrics(["target"]))
    assert [(one.id, one.status) for one in damaged.failed] == [(case.id, "unreadable")]
    text = (run.folder / "answers.jsonl").read_text().replace(str(answer.pixels), digest_of_pixels(picture), 1)
    (run.folder / "answers.jsonl").write_text(text)
    again = score(bench, read_run(run.folder, bench), make_metrics(FEW))
    assert again.new >= 2
    (row,) = [one for one in again.scores["copying"] if one.case == case.key]
    assert row.values["changed"] == 1.0


class Broken:
    """Fails for some pictures, and is not finite for others."""

    name = "broken"
    version = 1
    measures = (Measure("x", "higher", "x"),)

    def __call__(self, pair: Pair):
        if pair.case.task == "add":
            raise ZeroDivisionError("by zero")
        return {"x": np.nan if pair.case.task == "move" else 1.0}


def test_a_metric_that_fails_gives_no_number_and_is_asked_again(bench: Prepared, run: Run) -> None:
    found = score(bench, run, [Broken()])
    assert [(one.id.split("-")[0], one.status, one.reason) for one in found.failed] == [
        ("add", "broken failed", "ZeroDivisionError: by zero"),
        ("move", "broken failed", "the value is nan, not a finite number"),
    ]
    assert sum(bool(row.values) for row in found.scores["broken"]) == len(bench.cases) - 2
    assert score(bench, run, [Broken()]).new == 2


def test_shards_and_limits_score_parts_of_the_same_whole(bench: Prepared, run: Run) -> None:
    for number in (1, 2):
        score(bench, run, make_metrics(FEW), shard=(number, 2))
    whole = score(bench, run, make_metrics(FEW))
    assert whole.new == 0
    assert len(whole.scores["copying"]) == len(bench.cases)
    some = score(bench, run, make_metrics(FEW), tasks=["add", "move"])
    assert [row.id.split("-")[0] for row in some.scores["source"]] == ["add", "move"]


def test_a_score_of_a_shard_counts_when_the_output_has_changed_since(bench: Prepared, tmp_path: Path) -> None:
    """The file of the whole holds the score of the old output, and is read after those of shards."""
    shutil.copytree(anchor_run(bench, "target", tmp_path / "target").folder, tmp_path / "run")
    score(bench, read_run(tmp_path / "run", bench), make_metrics(["source"]))
    shutil.rmtree(tmp_path / "run" / "outputs")
    (tmp_path / "run" / "answers.jsonl").unlink()
    (tmp_path / "run" / "run.json").unlink()
    shutil.copytree(anchor_run(bench, "shuffled", tmp_path / "shuffled").folder, tmp_path / "run", dirs_exist_ok=True)
    run = read_run(tmp_path / "run", bench)
    for number in (1, 2):
        score(bench, run, make_metrics(["source"]), shard=(number, 2))
    expected = score(bench, read_run(tmp_path / "shuffled", bench), make_metrics(["source"]))
    assert read_scores(run, ["source"])["source"] == {row.case: row for row in expected.scores["source"]}
    joined = score(bench, run, make_metrics(["source"]))
    assert (joined.new, joined.digest) == (0, expected.digest)
