"""What an evaluation costs: over the bare pipeline, all of TagWorld, ready outputs, and the report of a large one.

    python benchmarks/evaluate.py [--cases 16] [--ready 400] [--report-cases 6538] [--editors 9] [--only NAME ...]

The commands run in processes of their own, as a user runs them. The report's scores are made up: its time does not
depend on them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from figures import Figure, report
from PIL import Image

from tagmoe.evaluate.benchmarks.benchmark import prepare
from tagmoe.evaluate.benchmarks.cases import CASES, MANIFEST, Case, Manifest, Prepared, digest_of_cases, read_prepared
from tagmoe.evaluate.benchmarks.tagworld import TagWorld
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.run_folder import ANSWERS, FACTS, OUTPUTS, SCORES, Answer, RunFacts, digest_of_pixels
from tagmoe.evaluate.scoring import Score
from tagmoe.files.json_lines import as_line

TAGMOE = [sys.executable, "-c", "from tagmoe.cli import main; main()"]
PAIRS, BATCH, REPORT_TASKS, DRAWS = 5, 32, 31, 2000


def tagmoe(*words: object) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([*TAGMOE, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"tagmoe {' '.join(map(str, words))}: {said.decode()[-500:]}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def bench_of(folder: Path, per_task: int, seed: int) -> Prepared:
    """TagWorld in a new folder."""
    folder.mkdir()
    prepare(TagWorld(per_task, seed), folder)
    return read_prepared(folder)


def overhead(folder: Path, per_task: int, seed: int) -> list[Figure]:
    """`generate` beside a loop that calls the pipeline with the same batches, in turn; the model is loaded once."""
    from tagmoe.cli.models import load_model
    from tagmoe.evaluate.answers.answer import AskedEditor
    from tagmoe.pipeline.editor import pipeline_editor

    bench = bench_of(folder / "bench", per_task, seed)
    editor = pipeline_editor(load_model(None, threads=1))
    answers = AskedEditor(editor, bench, {"name": "packaged", "weights": None, "settings": {}})
    asked = [(position, case, answers.asking.pictures(case, bench)) for position, case in enumerate(bench.cases)]
    alike = [[one for one in asked if len(one[2]) == count] for count in sorted({len(one[2]) for one in asked})]
    calls = [group[start : start + BATCH] for group in alike for start in range(0, len(group), BATCH)]

    def bare() -> None:
        for call in calls:
            words, shown = (
                [answers.asking.instruction(case) for _, case, _ in call],
                [pictures for *_, pictures in call],
            )
            editor(words, shown, [seed + position for position, *_ in call])

    ratios = []
    for pair in range(-1, PAIRS):
        started = time.perf_counter()
        bare()
        between = time.perf_counter()
        generate(bench, answers, RunFacts.of(bench, answers, seed), folder / f"run {pair}", batch=BATCH)
        if pair >= 0:  # the first fills caches
            ratios.append((time.perf_counter() - between) / (between - started))
    note = f"{len(asked)} cases, median of pairs; {min(ratios) - 1:.1%} to {max(ratios) - 1:.1%}"
    return [Figure("generate_overhead", 100 * (statistics.median(ratios) - 1), "%", 3, runs=PAIRS, note=note)]


def tagworld(folder: Path, per_task: int, seed: int) -> list[Figure]:
    """All commands of an evaluation of the packaged model, in 2 workers."""
    bench, run = folder / "bench", folder / "run"
    seconds = tagmoe("eval", "prepare", "tagworld", "--cases", per_task, "--seed", seed, "--out", bench)[0]
    seconds += tagmoe("eval", "generate", bench, "--out", run, "--threads", 1, "--workers", 2)[0]
    seconds += tagmoe("eval", "score", bench, run, "--workers", 2)[0]
    seconds += tagmoe("eval", "report", bench, run, "--out", folder / "report")[0]
    note = f"{25 * per_task} cases: prepare, generate, score, report"
    return [Figure("tagworld_evaluation", seconds, "s", 300, note=note)]


def ready_folder(folder: Path, per_task: int, seed: int) -> list[Figure]:
    """A ready folder of all targets: rows a second, and how much the peak grows with ten times as many cases."""
    bench = bench_of(folder / "bench", per_task, seed)
    (folder / "ready").mkdir()
    for case in bench.cases:
        os.link(bench.folder / str(case.target), folder / "ready" / f"{case.id}.png")
    found: dict[str, list[tuple[float, int]]] = {}
    for name, limit in (("few", max(1, per_task // 10)), ("all", per_task)):
        run = folder / name
        options = ("--limit", limit)
        found[name] = [
            tagmoe("eval", "generate", bench.folder, "--outputs", folder / "ready", "--out", run, *options),
            tagmoe("eval", "score", bench.folder, run, "--metrics", "oracle,target", *options),
        ]
    more = len(bench.cases) - 25 * max(1, per_task // 10)
    peaks = [max(memory for _, memory in found[name]) for name in ("few", "all")]
    rates = [len(bench.cases) / seconds for seconds, _ in found["all"]]
    note = f"{len(bench.cases)} cases, with the start of the command"
    return [
        Figure("ready_generate", rates[0], "cases/s", note=note),
        Figure("ready_score", rates[1], "cases/s", note=f"{note}, oracle and target"),
        Figure("ready_more_memory", (peaks[1] - peaks[0]) / 2**20, "MiB", 48, note=f"for {more} more cases"),
    ]


def made_up(folder: Path, cases: int, editors: int, seed: int) -> list[Path]:
    """A benchmark of 31 tasks and runs with a score of every metric for every case, without any edit."""
    dice = np.random.default_rng(seed)
    bench = folder / "bench"
    bench.mkdir()
    Image.new("RGB", (64, 64), "teal").save(bench / "source.png")
    listed = [
        Case(
            bench="made-up", id=f"{number}", task=f"task {number % REPORT_TASKS}", instruction=f"edit {number}",
            source="source.png", target="source.png",
        )
        for number in range(cases)
    ]  # fmt: skip
    tasks = {case.task: sum(other.task == case.task for other in listed) for case in listed[:REPORT_TASKS]}
    digest = digest_of_cases(listed)
    manifest = Manifest(
        benchmark="made-up", licence="none", made_from="chance", settings={}, cases=cases, tasks=tasks, digest=digest
    )
    (bench / CASES).write_text("".join(as_line(case.model_dump_json()) for case in listed))
    (bench / MANIFEST).write_text(manifest.model_dump_json())
    runs = []
    with Image.open(bench / "source.png") as picture:
        pixels = digest_of_pixels(picture.convert("RGB"))
    for number in range(editors):
        run = folder / f"editor {number}"
        (run / OUTPUTS).mkdir(parents=True)
        (run / SCORES).mkdir()
        os.link(bench / "source.png", run / OUTPUTS / "one.png")
        facts = RunFacts(benchmark="made-up", cases=digest, editor={"name": f"editor {number}"}, seed=0)
        (run / FACTS).write_text(facts.model_dump_json())
        kept = {"file": f"{OUTPUTS}/one.png", "pixels": pixels, "width": 64, "height": 64}
        answers = (Answer(id=case.id, case=case.key, status="ok", **kept) for case in listed)
        (run / f"{ANSWERS}.jsonl").write_text("".join(as_line(row.model_dump_json()) for row in answers))
        for metric in make_metrics():
            values = dice.random((cases, len(metric.measures)))
            rows = (_score(case, metric, drawn, pixels) for case, drawn in zip(listed, values, strict=True))
            (run / SCORES / f"{metric.name}.jsonl").write_text("".join(as_line(json.dumps(row)) for row in rows))
        runs.append(run)
    return runs


def _score(case: Case, metric: Any, drawn: np.ndarray, pixels: str) -> dict[str, Any]:
    values = {
        one.name: float(value > 0.5) if one.kind == "outcome" else float(value)
        for one, value in zip(metric.measures, drawn, strict=True)
    }
    row = Score(id=case.id, case=case.key, pixels=pixels, version=metric.version, values=values, lacking={})
    return row.model_dump()


def large_report(folder: Path, cases: int, editors: int, seed: int) -> list[Figure]:
    """`report` of many cases and editors with every metric."""
    runs = made_up(folder, cases, editors, seed)
    seconds, memory = tagmoe(
        "eval", "report", folder / "bench", *runs, "--out", folder / "report", "--draws", DRAWS, "--seed", seed
    )
    note = f"{cases} cases, {editors} editors, {len(make_metrics())} metrics, {DRAWS} draws"
    return [
        Figure("report", seconds, "s", 60, note=note),
        Figure("report_memory", memory / 2**20, "MiB", note=note),
    ]


def measure(
    cases: int, ready: int, report_cases: int, editors: int, seed: int, only: Sequence[str] | None
) -> list[Figure]:
    """What an evaluation costs: over the bare pipeline, all of TagWorld, ready outputs, the report of a large one."""
    parts: dict[str, Callable[[Path], list[Figure]]] = {
        "overhead": lambda folder: overhead(folder, max(1, cases // 4), seed),
        "tagworld": lambda folder: tagworld(folder, cases, seed),
        "ready": lambda folder: ready_folder(folder, ready, seed),
        "report": lambda folder: large_report(folder, report_cases, editors, seed),
    }
    figures: list[Figure] = []
    for name in only or parts:
        with TemporaryDirectory() as folder:
            figures += parts[name](Path(folder))
    return figures


if __name__ == "__main__":
    report(
        measure,
        {
            "cases": {"type": int, "default": 16, "help": "TagWorld cases a task; the overhead takes a quarter"},
            "ready": {"type": int, "default": 400, "help": "ready outputs a task"},
            "report-cases": {"type": int, "default": 6538},
            "editors": {"type": int, "default": 9},
            "seed": {"type": int, "default": 0},
            "only": {"nargs": "+", "choices": ["overhead", "tagworld", "ready", "report"]},
        },
    )
