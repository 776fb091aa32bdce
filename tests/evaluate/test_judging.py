"""Judges: refused unless they tell right from wrong, answers kept as they came, no guess, measured by the truth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.erring_judges import COMPARING_FAULTS, FAULTS, MODEL, ErringJudge, erring_judge, truths_of
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.cli import run as cli
from tagmoe.cli.vlm_options import open_vlm
from tagmoe.errors import DataError, ResultError, UsageError
from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.comparison.pairs import compare
from tagmoe.evaluate.comparison.summary import summarise
from tagmoe.evaluate.judging.calibration import Observed, calibrate, read_labels
from tagmoe.evaluate.judging.description import JudgeDescription, judge_names, read_judge
from tagmoe.evaluate.judging.judge import Judge
from tagmoe.evaluate.judging.judgements import Judged, judge_run
from tagmoe.evaluate.judging.measure import measure, truths
from tagmoe.evaluate.judging.self_test import SelfTest, self_test
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.run_folder import Run, read_run
from tagmoe.evaluate.scoring import score

ANCHORS = ("target", "copy", "shuffled")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld", per_task=2)


@pytest.fixture(scope="module")
def runs(bench: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    made = [anchor_run(bench, name, folder / name) for name in ANCHORS]
    for run in made:
        score(bench, run, make_metrics(["oracle"]))
    return made


def small(name: str) -> JudgeDescription:
    """A judge of this package that sees pictures in their own size, which costs less."""
    return read_judge(name).model_copy(update={"least_pixels": 1})


def opened(name: str, server: ErringJudge) -> Judge:
    return Judge(small(name), open_vlm([server.url], MODEL, concurrency=16, timeout=20, attempts=1))


def proof_of(judge: Judge) -> SelfTest:
    async def run() -> SelfTest:
        try:
            return await self_test(judge)
        finally:
            await judge.vlm.close()

    return asyncio.run(run())


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("vllmq", "oracle"),
        ("vllmq", "blind"),
        ("preference", "first"),
        ("viescore", "oracle"),
        *(pytest.param("vllmq", fault, marks=slow) for fault in FAULTS if fault not in ("oracle", "blind")),
        *(pytest.param("preference", fault, marks=slow) for fault in COMPARING_FAULTS if fault != "first"),
    ],
)
def test_each_fault_is_found_and_named(name: str, fault: str, bench: Prepared, runs: list[Run], tmp_path: Path) -> None:
    with erring_judge(fault, truths_of(small(name), bench, runs)) as server:
        judge = opened(name, server)
        proof = proof_of(judge)
        found = measure(bench, runs, judge, truths(bench, runs, None), tmp_path)
    assert proof.passed == (fault in ("oracle", "noisy", "strict")), proof.faults
    named = {
        "oracle": [],
        "noisy": ["noisy"],
        "flatterer": ["flatters"],
        "strict": ["too strict"],
        "blind": ["does not see"],
        "first": ["does not see", "prefers the one shown first"],
    }[fault]
    assert [one.split(":")[0] for one in found.faults] == named
    assert found.coverage.value == 1.0
    assert proof.tokens is not None
    if fault == "oracle":
        assert found.order.value == 1.0
        assert found.pairs > 60
        assert all(value == 1.0 for _, value in found.tasks.values())


def test_raw_answers_are_kept_and_nothing_is_asked_twice(bench: Prepared, runs: list[Run], tmp_path: Path) -> None:
    run = anchor_run(bench, "target", tmp_path / "target")
    truth = truths_of(small("vllmq"), bench, runs)
    with erring_judge("oracle", truth) as server:
        # A server that dies in the middle: what was answered stays.
        server.says = dict.fromkeys(range(11, 100), 500)
        with pytest.raises(DataError, match=r"20 cases in a row got no answer.*run the same command again"):
            judge_run(bench, run, opened("vllmq", server), in_flight=1)
        server.says, server.asked = {}, type(server.asked)()
        ended = judge_run(bench, run, opened("vllmq", server))
        assert ended.known == 10
        assert server.asked["questions"] == sum(ended.asked.values()) == len(ended.rows) - 10
        again = judge_run(bench, run, opened("vllmq", server))
        assert (sum(again.asked.values()), again.scores) == (0, ended.scores)
    whole = anchor_run(bench, "target", tmp_path / "whole")
    with erring_judge("oracle", truth) as server:
        judge_run(bench, whole, opened("vllmq", server), in_flight=3)
    for file in ("judged/vllmq.jsonl", "scores/vllmq.jsonl"):
        assert (run.folder / file).read_bytes() == (whole.folder / file).read_bytes()
    row = json.loads((run.folder / "judged" / "vllmq.jsonl").read_text().splitlines()[0])
    assert row["replies"][0] | {"tokens": 0} == {
        "question": "right", "exchanged": False, "turn": 0, "status": "ok", "text": "1", "reason": "", "numbers": [1.0],
        "attempts": 1, "notes": [], "tokens": 0,
    }  # fmt: skip


BAD = {
    "prose": "The edit looks good to me.",
    "NaN": '{"reasoning": "x", "success": NaN, "restraint": 5}',
    "out of scale": '{"reasoning": "x", "success": 11, "restraint": 5}',
    "text for a number": '{"reasoning": "x", "success": "high", "restraint": 5}',
    "another language": '{"raisonnement": "bien", "succes": 9, "retenue": 9}',
    "half a JSON": '{"reasoning": "x", "success": 9',
    "one number": '{"reasoning": "x", "success": 9}',
    "nothing": "",
    "a picture": "![](data:image/png;base64,iVBORw0KGgo=)",
}


def test_an_answer_that_is_no_number_is_missing_and_never_a_guess(
    bench: Prepared, runs: list[Run], tmp_path: Path
) -> None:
    run = anchor_run(bench, "target", tmp_path / "target")
    with erring_judge("oracle", truths_of(small("viescore"), bench, runs)) as server:
        # Every case has two questions; the first of the first cases is answered badly.
        server.says = dict(enumerate(BAD.values(), 1))
        judged = judge_run(bench, run, opened("viescore", server), in_flight=1)
    bad = [row for row in judged.rows.values() if row.status == "invalid"]
    assert {reply.text for row in bad for reply in row.replies if reply.status == "invalid"} == set(BAD.values())
    assert [status for _, status, _ in judged.failed] == ["parse_error"] * len(bad)
    assert not any(score.values for score in judged.scores if score.case in {row.case for row in bad})
    summary = summarise(bench, [run])
    figure = summary.editors[0].figures["viescore"]
    assert figure.lacking == {"parse_error": len(bad)}
    assert figure.cases == len(judged.rows) - len(bad)
    assert summary.editors[0].bases["viescore"]["model"] == MODEL


def test_a_refusal_is_a_status_of_its_row_alone(bench: Prepared, runs: list[Run], tmp_path: Path) -> None:
    run = anchor_run(bench, "target", tmp_path / "target")
    with erring_judge("oracle", truths_of(small("vllmq"), bench, runs)) as server:
        server.says = {3: 400}
        judged = judge_run(bench, run, opened("vllmq", server), in_flight=1)
        assert [status for _, status, _ in judged.failed] == ["refused"]
        # A server that refuses everything, the harmless question too, speaks of the account: the rows stay open.
        other = anchor_run(bench, "copy", tmp_path / "copy")
        server.says = {0: 402}
        with pytest.raises(DataError, match="not even a harmless one"):
            judge_run(bench, other, opened("vllmq", server), in_flight=1)
        server.says = {}
        assert judge_run(bench, other, opened("vllmq", server)).failed == ()


def test_the_command_lists_each_bad_answer_and_judges_the_rest(
    bench: Prepared, runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = tmp_path / "small.yaml"
    description.write_text(yaml.safe_dump(small("vllmq").model_dump(mode="json", exclude_defaults=True)))
    run = anchor_run(bench, "target", tmp_path / "target")
    words = ["eval", "judge", str(bench.folder), str(run.folder), "--judge", str(description), "--model", MODEL]
    with erring_judge("oracle", truths_of(small("vllmq"), bench, runs)) as server:
        # The self-test takes 60 questions.
        bad = ["The edit looks good.", "NaN", "2", "oui", '{"answer": "1', "", "![](data:image/png;base64,iVBO=)"]
        server.says = {**dict(enumerate(bad, 61)), 68: 400}
        assert cli([*words, "--endpoint", server.url, "--json"]) == 1
    out, err = capsys.readouterr()
    data = json.loads(out)["runs"][str(run.folder)]
    statuses = [one["status"] for one in data["failures"]]
    assert sorted(statuses) == ["parse_error"] * len(bad) + ["refused"]
    assert data["judged"] == 42 - len(bad) - 1
    assert all(one["id"] in err for one in data["failures"])


def test_other_judges_are_never_compared(bench: Prepared, runs: list[Run], tmp_path: Path) -> None:
    a, b = (anchor_run(bench, name, tmp_path / name) for name in ("target", "copy"))
    with erring_judge("oracle", truths_of(small("vllmq"), bench, runs)) as server:
        judge_run(bench, a, opened("vllmq", server))
        described = small("vllmq").model_copy(update={"max_tokens": 64})
        vlm = open_vlm([server.url], MODEL, concurrency=16, timeout=20)
        judge_run(bench, b, Judge(described, vlm))
        with pytest.raises(ResultError, match="'vllmq' rests on other weights or choices"):
            compare(bench, a, b)
        judge_run(bench, b, opened("vllmq", server))
    found = compare(bench, a, b)
    assert found.editors[1].differences["vllmq"].value.value == -1.0


def test_the_commands(bench: Prepared, runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = tmp_path / "mine.yaml"
    description.write_text(yaml.safe_dump(small("vllmq").model_dump(mode="json", exclude_defaults=True)))
    run = anchor_run(bench, "target", tmp_path / "target")
    words = ["eval", "judge", str(bench.folder), str(run.folder), "--judge", str(description), "--model", MODEL]
    with erring_judge("oracle", truths_of(small("vllmq"), bench, runs)) as server:
        assert cli([*words, "--endpoint", server.url, "--price-in", "2", "--json"]) == 0
        out, err = capsys.readouterr()
        data = json.loads(out)
        assert data["self_test"]["passed"]
        assert data["runs"][str(run.folder)]["judged"] == 42
        assert "4,200 tokens in and 210 out, about 0.01 at the given price" in err
        assert cli(["eval", "report", str(bench.folder), str(run.folder), "--out", str(tmp_path / "report")]) == 0
        capsys.readouterr()
        assert json.loads((tmp_path / "report" / "report.json").read_text())["editors"]["target"]["learned_metrics"]
        server.fault = "flatterer"
        assert cli([*words, "--endpoint", server.url]) == 1
        assert "fails its self-test: the right answer gets 1.00" in capsys.readouterr().err
        out_folder = str(tmp_path / "calibration")
        labels = tmp_path / "labels.csv"
        ids = [case.id for case in bench.cases[:20]]
        labels.write_text("run,id,label\n" + "".join(f"target,{name},{place % 2}\n" for place, name in enumerate(ids)))
        words[1] = "calibrate"
        assert cli([*words, "--endpoint", server.url, "--labels", str(labels), "--out", out_folder, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["calibration"]
        assert found["n"] == sum(opened("vllmq", server).why_not(case) is None for case in bench.cases[:20])


def test_descriptions_that_cannot_be_are_refused(tmp_path: Path, bench: Prepared, runs: list[Run]) -> None:
    good = read_judge("vllmq").model_dump(mode="json", exclude_defaults=True)
    question = good["questions"][0]
    bad: dict[str, Any] = {
        "no width": {**good, "least": 1},
        "answer}": {**good, "questions": [{**question, "words": "x {answer}"}]},
        "'questions'": {**good, "questions": []},
        "letters": {**good, "name": "../x"},
        "output and other": {**good, "compares": True},
        "shows.1": {**good, "questions": [{**question, "shows": ["source", "target"]}]},
        "least_pixels is above": {**good, "most_pixels": 10},
        "geometric": {**good, "least": -1, "overall": "geometric-mean"},
    }
    for sentence, data in bad.items():
        file = tmp_path / "bad.yaml"
        file.write_text(yaml.safe_dump(data))
        with pytest.raises(UsageError, match=sentence):
            read_judge(str(file))
    with pytest.raises(UsageError, match=r"no judge 'x'; give one of editreward, .*, vllmq"):
        read_judge("x")
    with pytest.raises(UsageError, match="cannot be read"):
        read_judge(str(tmp_path / "none.yaml"))
    assert all(read_judge(name).name == name for name in judge_names())
    with erring_judge("oracle", {}) as server:
        with pytest.raises(UsageError, match="compares two editors; give the other run"):
            judge_run(bench, runs[0], opened("preference", server))
        with pytest.raises(UsageError, match="does not compare; leave the other run out"):
            judge_run(bench, runs[0], opened("vllmq", server), against=runs[1])


def test_masks_and_references_choose_the_form() -> None:
    class Unasked:
        model = "none"

    judge = Judge(read_judge("vllmq"), Unasked())  # type: ignore[arg-type]

    def forms(**fields: Any) -> list[Sequence[str]]:
        case = Case(bench="x", id="1", task="t", instruction="i", **fields)
        return [one.shows for one in judge.description.questions if one.fits(case)]

    assert forms(source="a") == [("source", "output")]
    assert forms(source="a", mask="m") == [("source", "output", "mask")]
    assert forms(source="a", refs=("r",)) == [("source", "output", "reference")]
    assert forms(source="a", mask="m", refs=("r",)) == [("source", "output", "mask", "reference")]
    assert judge.why_not(Case(bench="x", id="1", task="t", instruction="i")) is not None
    assert judge.why_not(Case(bench="x", id="1", task="t", instruction="i", source="a", meta={"control": "edge"}))


def test_figures_of_a_calibration_are_those_of_plain_sums() -> None:
    values = [0.1, 0.9, 0.4, 0.6, 0.8, 0.3, 0.7, 0.2, None]
    truth = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    cases = ["a", "a", "b", "b", "c", "c", "d", "d", "e"]
    observed = [
        Observed(f"run {place % 2}", case, case, "t", value, label)
        for place, (value, label, case) in enumerate(zip(values, truth, cases, strict=True))
    ]
    found = calibrate(observed, 0.5)
    import numpy as np

    known = [place for place, value in enumerate(values) if value is not None]
    wanted = np.corrcoef([values[place] for place in known], [truth[place] for place in known])[0, 1]  # type: ignore[misc]
    assert found.correlation.value == pytest.approx(wanted)
    # In a, c and d the right one is above; in b below.
    assert (found.order.value, found.pairs) == (0.75, 4)
    assert found.wrong_as_right is not None
    assert found.right_as_wrong is not None
    assert (found.wrong_as_right.value, found.right_as_wrong.value) == (0.25, 0.25)
    assert found.coverage.value == pytest.approx(8 / 9)


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, bench: Prepared, runs: list[Run]) -> None:
    file = tmp_path / "labels.csv"
    for text in ("", "run,id\nx,1\n", "run,id,label\nx,1,good\n", "run,id,label\nx,1,nan\n", "\x00"):
        file.write_text(text)
        with pytest.raises(UsageError, match="labels"):
            read_labels(file)
    with pytest.raises(UsageError, match="run 'nobody', which is not among these"):
        truths(bench, runs, {("nobody", bench.cases[0].id): 1.0})
    assert isinstance(read_run(runs[0].folder, bench), Run)
    assert Judged.__doc__
