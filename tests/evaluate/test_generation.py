"""Outputs of runs: kept at once, never asked twice, equal after any number of stops; a failure is never a picture."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.answers.anchors import ANCHORS, AnchorAnswers
from tagmoe.evaluate.answers.answer import AskedEditor, Asking
from tagmoe.evaluate.answers.ready import ReadyFolder
from tagmoe.evaluate.benchmarks.cases import Case, Prepared, read_prepared
from tagmoe.evaluate.generation import collect, generate
from tagmoe.evaluate.run_folder import OUTPUTS, Lines, RunFacts, claim_run, read_run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld", 2)


class Brighter:
    """An editor that counts its calls, draws the seed into its picture, and fails where it is told to."""

    def __init__(self, refuses: str = "", stops_after: int = 10**9) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self._refuses, self._stops_after = refuses, stops_after

    def __call__(self, instructions, images, seeds):
        if len(self.seen) >= self._stops_after:
            raise KeyboardInterrupt
        if self._refuses in instructions and self._refuses:
            raise RuntimeError("out of\nmemory")
        self.seen += [(words, len(given), seed) for words, given, seed in zip(instructions, images, seeds, strict=True)]
        return [np.full((8, 8, 3), 100 + seed % 100, np.uint8) for seed in seeds]


def editor_of(bench: Prepared, editor: Brighter) -> AskedEditor:
    return AskedEditor(editor, bench, {"name": "brighter", "weights": None, "settings": {}})


@pytest.mark.slow
def test_each_case_has_its_own_seed_and_its_own_pictures(bench: Prepared, tmp_path: Path) -> None:
    editor = Brighter()
    answers = editor_of(bench, editor)
    made = generate(bench, answers, RunFacts.of(bench, answers, 7), tmp_path / "run", batch=5)
    assert made.counts == {"ok": len(bench.cases)}
    wanted = [(c.instruction, len(c.refs) + bool(c.source), 7 + place) for place, c in enumerate(bench.cases)]
    assert sorted(editor.seen) == sorted(wanted)
    some = generate(bench, answers, RunFacts.of(bench, answers, 7), tmp_path / "some", tasks=["move"], limit=1)
    everything = {answer.id: answer.pixels for answer in made.answers}
    assert [answer.pixels for answer in some.answers] == [everything[some.answers[0].id]]


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not(bench: Prepared, tmp_path: Path) -> None:
    undisturbed = editor_of(bench, Brighter())
    whole = generate(bench, undisturbed, RunFacts.of(bench, undisturbed), tmp_path / "whole", batch=4)
    asked = 0
    for _ in range(30):
        editor = Brighter(stops_after=8)
        answers = editor_of(bench, editor)
        try:
            made = generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "stopped", batch=4)
            break
        except KeyboardInterrupt:
            asked += len(editor.seen)
            # As a kill between two bytes of a line would leave it.
            with (tmp_path / "stopped" / "answers.jsonl").open("ab") as file:
                file.write(b'{"id":"half')
    assert asked + len(editor.seen) == len(bench.cases), "no case is asked twice"
    assert made.digest == whole.digest
    without_times = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    assert without_times[0] == without_times[1]


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_it_had_written(bench: Prepared, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tagmoe.evaluate.answers.anchors import AnchorAnswers\n"
        "from tagmoe.evaluate.benchmarks.cases import read_prepared\n"
        "from tagmoe.evaluate.generation import collect, generate\n"
        "from tagmoe.evaluate.run_folder import RunFacts\n"
        "bench = read_prepared(Path(sys.argv[1]))\n"
        "answers = AnchorAnswers('shuffled', bench)\n"
        "def kill(done):\n"
        "    if done >= 20:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "generate(bench, answers, RunFacts.of(bench, answers), Path(sys.argv[2]), batch=4, on_cases=kill)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(bench.folder), str(run)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(read_run(run, bench).answers) == 20
    answers = AnchorAnswers("shuffled", bench)
    made = generate(bench, answers, RunFacts.of(bench, answers), run)
    assert made.new == len(bench.cases) - 20
    other = generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "undisturbed")
    assert made.digest == other.digest


def test_one_bad_case_fails_alone_without_a_picture_and_is_asked_again(bench: Prepared, tmp_path: Path) -> None:
    bad = bench.cases[6]
    answers = editor_of(bench, Brighter(refuses=bad.instruction))
    made = generate(bench, answers, RunFacts.of(bench, answers), tmp_path, batch=50)
    assert made.counts == {"ok": len(bench.cases) - 1, "failed": 1}
    (failure,) = made.failures
    assert (failure.id, failure.file, failure.reason) == (bad.id, None, "RuntimeError: out of memory")
    assert len(list((tmp_path / "outputs").iterdir())) == len(bench.cases) - 1
    again = generate(bench, editor_of(bench, Brighter()), RunFacts.of(bench, answers), tmp_path)
    assert (again.new, again.counts) == (1, {"ok": len(bench.cases)})


def test_anchors(bench: Prepared, tmp_path: Path) -> None:
    runs = {name: anchor_run(bench, name, tmp_path / name) for name in ANCHORS}
    for case in bench.cases:
        shown = {name: run.answers[case.key] for name, run in runs.items()}
        given = case.source or (case.refs[0] if case.refs else None)
        if given is None:
            assert (shown["copy"].status, shown["copy"].file) == ("inapplicable", None)
        else:
            assert np.array_equal(runs["copy"].picture(shown["copy"]), bench.picture(given))
        assert case.target is not None
        assert np.array_equal(runs["target"].picture(shown["target"]), bench.picture(case.target))
        assert not np.asarray(runs["black"].picture(shown["black"])).any()
        assert shown["black"].status == "ok", "the anchor is meant to be black"
    shuffled = [runs["shuffled"].answers[case.key].pixels for case in bench.cases]
    right = [runs["target"].answers[case.key].pixels for case in bench.cases]
    assert sorted(map(str, shuffled)) == sorted(map(str, right))
    assert not [place for place, pixels in enumerate(right) if pixels == shuffled[place]]


def test_a_ready_folder_gives_what_it_has_and_says_what_it_lacks(bench: Prepared, tmp_path: Path) -> None:
    ready = tmp_path / "mine"
    (ready / "deep").mkdir(parents=True)
    for place, case in enumerate(bench.cases):
        picture = Image.new("RGB", (9, 7), (place, 200, 0))
        if place == 3:
            (ready / f"{case.id}.png").write_bytes(b"no picture")
        elif place == 4:
            picture.save(ready / f"{case.id}.png")
            picture.save(ready / "deep" / f"{case.id}.jpg")
        elif place == 5:
            Image.new("RGB", (9, 7)).save(ready / f"{case.id}.png")
        elif place > 2:
            picture.save(ready / ("deep" if place % 2 else "") / f"{case.id}.png")
    answers = ReadyFolder(ready)
    made = generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "run")
    assert made.counts == {"missing": 4, "unreadable": 1, "black": 1, "ok": len(bench.cases) - 6}
    reasons = {answer.status: answer.reason for answer in made.failures}
    assert reasons["missing"].startswith("'")
    assert reasons["missing"].endswith("both have this id")
    assert made.answers[0].reason == "there is no file of this id"
    kept = made.answers[7]
    assert (tmp_path / "run" / str(kept.file)).read_bytes() == next(ready.rglob(f"{kept.id}.png")).read_bytes()
    assert (kept.width, kept.height) == (9, 7)
    before = answers.facts()["digest"]
    Image.new("RGB", (9, 7), "red").save(ready / f"{bench.cases[8].id}.png")
    assert ReadyFolder(ready).facts()["digest"] != before


def test_a_table_of_outputs_is_read_as_ice_bench_writes_it(bench: Prepared, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "images" / "x.png")
    first, second, third = (case.id for case in bench.cases[:3])
    table = {first: "images/x.png", second: "/somewhere/else/images/x.png", third: "../../etc/passwd"}
    (tmp_path / "gen_info.json").write_text(json.dumps(table))
    outputs = ReadyFolder(tmp_path)([(place, bench.cases[place]) for place in range(3)], [0, 1, 2])
    assert [type(output).__name__ for output in outputs] == ["ReadyFile", "ReadyFile", "NoPicture"]
    (tmp_path / "gen_info.json").write_text("[1]")
    with pytest.raises(UsageError, match="no object of ids"):
        ReadyFolder(tmp_path)
    with pytest.raises(UsageError, match="There is no folder of outputs"):
        ReadyFolder(tmp_path / "none")


def test_shards_of_one_folder_make_the_whole(bench: Prepared, tmp_path: Path) -> None:
    answers = AnchorAnswers("target", bench)
    facts = RunFacts.of(bench, answers)
    whole = generate(bench, answers, facts, tmp_path / "whole")
    for number in (1, 2, 3):
        generate(bench, answers, facts, tmp_path / "parts", shard=(number, 3))
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.jsonl")) == [
        f"answers-{number}-of-3.jsonl" for number in (1, 2, 3)
    ]
    joined = collect(bench, tmp_path / "parts")
    assert (joined.new, joined.digest) == (0, whole.digest)
    assert [path.name for path in (tmp_path / "parts").glob("*.jsonl")] == ["answers.jsonl"]
    again = generate(bench, answers, facts, tmp_path / "parts")
    assert (again.new, again.digest) == (0, whole.digest)


def test_shards_of_machines_without_a_shared_disk_are_copied_together(bench: Prepared, tmp_path: Path) -> None:
    answers = AnchorAnswers("target", bench)
    facts = RunFacts.of(bench, answers)
    for number in (1, 2):
        generate(bench, answers, facts, tmp_path / f"machine {number}", shard=(number, 2))
        shutil.copytree(tmp_path / f"machine {number}", tmp_path / "together", dirs_exist_ok=True)
    joined = collect(bench, tmp_path / "together")
    assert joined.digest == generate(bench, answers, facts, tmp_path / "whole").digest


def test_an_output_of_a_shard_counts_more_than_an_earlier_failure(bench: Prepared, tmp_path: Path) -> None:
    """The file of the whole is read after those of shards, so that its failure would win."""
    answers = editor_of(bench, Brighter(refuses=bench.cases[2].instruction))
    assert len(generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "run").failures) == 1
    mended = editor_of(bench, Brighter())
    for number in (1, 2):
        generate(bench, mended, RunFacts.of(bench, mended), tmp_path / "run", shard=(number, 2))
    assert read_run(tmp_path / "run", bench).answers[bench.cases[2].key].status == "ok"
    assert collect(bench, tmp_path / "run").counts == {"ok": len(bench.cases)}


def test_calls_at_the_same_time_give_the_same_and_end_when_stopped(bench: Prepared, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)

    def slow(instructions, images, seeds):
        if seeds[0] < 4:
            together.wait()
        return Brighter()(instructions, images, seeds)

    answers = AskedEditor(slow, bench, {"name": "brighter", "weights": None, "settings": {}})
    facts = RunFacts.of(bench, answers)
    made = generate(bench, answers, facts, tmp_path / "threads", batch=1, threads=4)
    alone = editor_of(bench, Brighter())
    assert made.digest == generate(bench, alone, facts, tmp_path / "alone").digest

    def stop(done: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(bench, alone, facts, tmp_path / "stopped", batch=1, threads=2, on_cases=stop)
    assert 6 <= len(read_run(tmp_path / "stopped", bench).answers) < len(bench.cases)


def test_a_folder_of_another_run_or_in_use_is_refused(bench: Prepared, tmp_path: Path) -> None:
    answers = AnchorAnswers("copy", bench)
    generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "run")
    with pytest.raises(UsageError, match="its seed is 0, not 1; give another folder"):
        generate(bench, answers, RunFacts.of(bench, answers, 1), tmp_path / "run")
    other = AnchorAnswers("black", bench)
    with pytest.raises(UsageError, match=r"its editor\.name is 'copy', not 'black'"):
        generate(bench, other, RunFacts.of(bench, other), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text").write_text("mine")
    with pytest.raises(UsageError, match="is no run and is not empty"):
        generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "mine")
    lines = Lines(tmp_path / "run" / "answers.jsonl")
    with pytest.raises(UsageError, match="Another command is writing"):
        generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "run")
    lines.close()
    (tmp_path / "run" / "answers.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match="Line 1 of"):
        read_run(tmp_path / "run", bench)
    with pytest.raises(UsageError, match="is no run"):
        read_run(tmp_path)
    elsewhere = tagworld_bench(tmp_path / "other bench", 1, seed=3)
    with pytest.raises(UsageError, match="is of other cases than"):
        read_run(tmp_path / "run", read_prepared(elsewhere.folder))


def test_marks_become_words_and_a_mask_is_given_when_asked_for(bench: Prepared) -> None:
    case = Case(bench="b", id="1", task="t", instruction="Put <REF_1> on <SOURCE> and <REF_2>", refs=("a", "b"))
    assert Asking().instruction(case) == "Put reference image 1 on the source image and reference image 2"
    one = case.model_copy(update={"refs": ("a",), "instruction": "Like <REF_1>"})
    assert Asking().instruction(one) == "Like the reference image"
    assert Asking(marks="keep").instruction(one) == "Like <REF_1>"
    masked = bench.chosen(["add"])[0][1]
    assert len(Asking().names(masked)) == 1
    assert Asking(mask="reference").names(masked) == [masked.source, masked.mask]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_full_disk_stops_the_run_in_one_sentence(
    bench: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    answers = editor_of(bench, Brighter())
    facts = RunFacts.of(bench, answers)
    generate(bench, answers, facts, tmp_path / "run", limit=1, tasks=["add"])

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tagmoe.evaluate.generation.write_whole", full)
    with pytest.raises(DataError, match=r"The disk takes no more in .*outputs' \(No space left on device\)"):
        generate(bench, answers, facts, tmp_path / "run", batch=1, threads=threads)
    monkeypatch.undo()
    assert generate(bench, answers, facts, tmp_path / "run").counts == {"ok": len(bench.cases)}


@pytest.mark.slow
def test_shards_that_start_at_the_same_moment_share_the_folder(bench: Prepared, tmp_path: Path) -> None:
    answers = AnchorAnswers("target", bench)
    facts = RunFacts.of(bench, answers)
    for attempt in range(10):
        folder, together = tmp_path / f"{attempt}", time.monotonic() + 0.03
        children: list[int] = []
        while len(children) < 4 and 0 not in children:
            children.append(os.fork())
        if 0 in children:
            try:
                while time.monotonic() < together:
                    pass
                claim_run(folder, facts)
                (folder / OUTPUTS).mkdir(exist_ok=True)
                os._exit(0)
            finally:
                os._exit(1)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    (tmp_path / "0" / "run.json").rename(tmp_path / "0" / ".run.json.1.partial")
    with pytest.raises(UsageError, match="is no run and is not empty"):
        claim_run(tmp_path / "0", facts)
