"""Runs that are killed at random points: nothing is lost or asked twice, and the end is as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.prepared_benchmarks import anchor_run, tagworld_bench
from support.tiny_backbones import tiny_clip

import tagmoe
from tagmoe.evaluate.answers.ready import ReadyFolder
from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.registry import make_metrics
from tagmoe.evaluate.run_folder import RunFacts, read_run
from tagmoe.evaluate.scoring import score

COMMAND = "import sys; from tagmoe.cli import run; sys.exit(run(sys.argv[1:]))"
MEASURED = """
import sys
from pathlib import Path
from tagmoe.cli import run
code = run(sys.argv[2:])
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
Path(sys.argv[1]).write_text(peak.split()[1])
sys.exit(code)
"""
MORE_MEMORY = 16 << 20
"""Bytes by which the peak may grow with thousands of further cases, whose rows are kept packed. Python's own table of
strings takes half of it, once: the parts of every path go through it."""


def link_targets(bench: Prepared, folder: Path) -> Path:
    """A ready folder of all targets."""
    folder.mkdir()
    for case in bench.cases:
        os.link(bench.folder / str(case.target), folder / f"{case.id}.png")
    return folder


def contents(folder: Path) -> dict[str, object]:
    """All that a run holds, without its times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.relative_to(folder).as_posix()] = [{**row, "seconds": 0} for row in rows]
        elif path.is_file() and path.name != "run.json":
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def killed_children(work: Callable[[], None], kills: int, done: Callable[[], int], chance: random.Random) -> int:
    """Do the work in forked processes that are killed at random moments, then whole. Returns how many kills struck."""
    struck = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        before, deadline = done(), time.monotonic() + 20
        while done() == before and time.monotonic() < deadline and not os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):  # fmt: skip
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        struck += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    work()
    return struck


def test_kills_at_random_points_leave_no_trace(tmp_path: Path) -> None:
    bench = tagworld_bench(tmp_path / "bench", 1)
    ready = link_targets(bench, tmp_path / "ready")
    whole = tmp_path / "whole"

    def make(folder: Path) -> None:
        answers = ReadyFolder(ready)
        generate(bench, answers, RunFacts.of(bench, answers), folder, batch=1)

    def judge(folder: Path) -> None:
        score(bench, read_run(folder, bench), make_metrics(["oracle"]))

    def lines(folder: Path) -> int:
        return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))

    make(whole)
    judge(whole)
    run, chance = tmp_path / "run", random.Random(0)
    made = killed_children(lambda: make(run), 3, lambda: lines(run) if run.is_dir() else 0, chance)
    judged = killed_children(lambda: judge(run), 3, lambda: lines(run), chance)
    assert made + judged >= 3, "the kills came too late to say anything"
    assert contents(run) == contents(whole)


def command(*words: object) -> tuple[int, int, str]:
    """(exit code, peak memory in bytes, stdout) of a command in a process of its own.

    The peak is the process's own account: what `wait4` tells counts its parent too, before the programme starts.
    """
    with tempfile.NamedTemporaryFile("r") as peak:
        line = [sys.executable, "-c", MEASURED, peak.name, *map(str, words)]
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return done.returncode, 1024 * int(peak.read() or 0), done.stdout


def test_the_memory_of_a_command_is_its_own() -> None:
    """A large parent hides nothing, or the tests below could not fail."""
    ballast = np.ones(1 << 26)
    code, peak, told = command("-V")
    assert (code, told) == (0, f"{tagmoe.__version__}\n")
    assert 1 << 20 < peak < ballast.nbytes // 2


def kill_command(words: Sequence[object], run: Path, total: int, kills: int, chance: random.Random) -> int:
    """Kill a command again and again when a random number of further rows is there. Returns how many kills struck."""
    struck = 0

    def rows() -> int:
        return sum(path.read_bytes().count(b"\n") for path in run.rglob("*.jsonl"))

    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wanted = rows() + chance.randint(1, max(1, 2 * total // (3 * kills)))
        while process.poll() is None and rows() < wanted:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        struck += process.wait() == -signal.SIGKILL
    return struck


def survive(bench: Prepared, editor: Sequence[object], folder: Path, kills: int) -> None:
    """Generate and score whole, and with kills in both; the results must be equal."""
    chance = random.Random(1)
    runs = {name: folder / name for name in ("whole", "killed")}
    make = {name: ["eval", "generate", bench.folder, *editor, "--out", run, "--json"] for name, run in runs.items()}
    judge = {
        name: ["eval", "score", bench.folder, run, "--metrics", "oracle,target", "--json"] for name, run in runs.items()
    }
    for words in (make["whole"], judge["whole"]):
        assert command(*words)[0] == 0
    cases = len(bench.cases)
    assert kill_command(make["killed"], runs["killed"], cases, kills, chance) >= kills // 2
    assert command(*make["killed"])[0] == 0
    assert kill_command(judge["killed"], runs["killed"], 2 * cases, kills, chance) >= kills // 2
    code, _, told = command(*judge["killed"])
    assert code == 0
    (killed,), (whole,) = (json.loads(text)["runs"].values() for text in (told, command(*judge["whole"])[2]))
    assert killed["digest"] == whole["digest"]
    assert contents(runs["killed"]) == contents(runs["whole"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_edits_of_the_packaged_model_survive_ten_kills(tmp_path: Path) -> None:
    survive(tagworld_bench(tmp_path / "bench", 40), ["--threads", 1], tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_ready_outputs_survive_ten_kills_in_flat_memory(tmp_path: Path) -> None:
    bench = tagworld_bench(tmp_path / "bench", 400)
    ready = link_targets(bench, tmp_path / "ready")
    survive(bench, ["--outputs", ready], tmp_path, 10)
    # So many cases fill the oracle's caches (scenes of 4,096 cases, all styles and lights), which grow until then.
    peaks = memory(bench, ready, tmp_path, few=200)
    assert peaks["all"] - peaks["few"] < MORE_MEMORY, peaks


def survive_scoring(bench: Prepared, ready: Path, folder: Path, metrics: Sequence[object], kills: int) -> None:
    """Score whole, and with kills; the results must be equal, also of what is scored again after the kills."""
    runs = [folder / name for name in ("whole", "killed")]
    assert command("eval", "generate", bench.folder, "--outputs", ready, "--out", runs[0])[0] == 0
    shutil.copytree(runs[0], runs[1])
    whole, killed = (["eval", "score", bench.folder, run, *metrics, "--json"] for run in runs)
    assert command(*whole)[0] == 0
    assert kill_command(killed, runs[1], len(bench.cases), kills, random.Random(2)) >= kills // 2
    assert command(*killed)[0] == 0
    digests = [next(iter(json.loads(command(*words)[2])["runs"].values()))["digest"] for words in (whole, killed)]
    assert digests[0] == digests[1]
    assert contents(runs[0]) == contents(runs[1])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_learned_scores_survive_ten_kills_in_flat_memory(tmp_path: Path) -> None:
    bench = tagworld_bench(tmp_path / "bench", 400)
    ready = link_targets(bench, tmp_path / "ready")
    metrics = ["--metrics", "clip", "--weights", f"clip={tiny_clip(tmp_path / 'clip')}"]
    survive_scoring(bench, ready, tmp_path, metrics, 10)
    # Features of 4,096 pictures are kept, so that the memory grows until then.
    peaks = memory(bench, ready, tmp_path, few=100, metrics=metrics)
    print(f"peak memory in bytes: {peaks}")
    assert peaks["all"] - peaks["few"] < MORE_MEMORY, peaks


def memory(
    bench: Prepared, ready: Path, folder: Path, few: int, metrics: Sequence[object] = ("--metrics", "oracle,target")
) -> dict[str, int]:
    """Peak memory of generate and score together, of `few` cases a task and of all."""
    found = {}
    for name, limit in (("few", ["--limit", few]), ("all", [])):
        run = folder / f"memory {name}"
        made = command("eval", "generate", bench.folder, "--outputs", ready, "--out", run, *limit)
        scored = command("eval", "score", bench.folder, run, *metrics, *limit)
        assert (made[0], scored[0]) == (0, 0)
        found[name] = max(made[1], scored[1])
    return found


def test_the_anchor_of_a_ready_folder_scores_as_the_target(tmp_path: Path) -> None:
    """What the tests above compare is worth something: a ready folder of targets has the values of the anchor."""
    bench = tagworld_bench(tmp_path / "bench", 1)
    answers = ReadyFolder(link_targets(bench, tmp_path / "ready"))
    generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "run")
    found = [
        score(bench, run, make_metrics(["target"])).digest
        for run in (read_run(tmp_path / "run", bench), anchor_run(bench, "target", tmp_path / "target"))
    ]
    assert found[0] == found[1]
