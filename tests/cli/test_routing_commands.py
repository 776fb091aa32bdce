"""`tagmoe routing record | report`: from a model to a page, and every mistake in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tagmoe.laboratory.routing import controls
from tagmoe.laboratory.routing.controls import FREE_TASKS
from tagmoe.routing.reading import read_recording
from tagmoe.routing.recording import RecordingWriter
from tagmoe.world import TASKS

TINY = ("--steps", "2", "--cfg", "1")
ONE_STEP = ("--steps", "1", "--cfg", "1")


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def two_experts(model: Path, tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with two experts a layer: half as many can be switched off."""
    from tagmoe.model.transformer import TagMoETransformer2DModel

    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("models") / "two-experts"))
    config = {name: value for name, value in tiny_pipeline.transformer.config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    TagMoETransformer2DModel(**(config | {"num_layers": 2, "num_experts": 2})).save_pretrained(folder / "transformer")
    return folder


@pytest.mark.usefixtures("empty_figures")
@pytest.mark.parametrize("free", [FREE_TASKS[1:2], pytest.param(FREE_TASKS, marks=pytest.mark.slow)])
def test_a_model_is_recorded_and_the_recording_shown_without_it(
    tagmoe, two_experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: tuple[str, ...]
) -> None:
    """free: the tasks of the control, one of them or all nine."""
    model = two_experts
    monkeypatch.setattr(controls, "FREE_TASKS", free)
    recording, page = tmp_path / "recording", tmp_path / "page"
    arguments = ["--cases", 1, "--tasks", "recolour, generate", "--controls", 1, "--interventions", 1, *ONE_STEP]
    made = tagmoe("routing", "record", "--model", model, "--out", recording, "--random-weights", *arguments, "--json")
    assert made.code == 0, made.err
    data = json.loads(made.out)
    assert data["recording"] == str(recording)
    assert data["cases"] == 2 + 3 * len(free)
    assert data["bytes"] == sum(path.stat().st_size for path in recording.rglob("*") if path.is_file())
    opened = read_recording(recording)
    assert [case.facts.task for case in opened.cases if not case.facts.control] == ["recolour", "generate"]
    assert all(case.success is not None and case.timesteps[0] == 1.0 for case in opened.cases)
    assert opened.header.about.model == model.name
    assert str(model) not in (recording / "recording.json").read_text()
    assert opened.interventions is not None
    assert len(opened.interventions.conditions) == 1 + 3 * 2 * 2
    assert any(any(one.change) for one in opened.interventions.conditions)

    shown = tagmoe("routing", "report", recording, "--out", page)
    assert shown.code == 0, shown.err
    assert shown.out == f"{page / 'report.html'}\n"
    assert "Random weights" in (page / "report.html").read_text()
    assert len(json.loads((page / "report.json").read_text())["findings"]["effects"]["switched"]) == 12

    tagmoe("routing", "report", recording, "--out", page).refused(2, "exists", "--force")
    (page / "mine.txt").write_text("mine")
    tagmoe("routing", "report", recording, "--out", page, "--force").refused(2, "'mine.txt'")


@pytest.mark.slow
def test_ones_own_pictures_are_recorded_with_several_references(tagmoe, model: Path, tmp_path: Path) -> None:
    for number, size in enumerate([(64, 64), (96, 48)]):
        Image.fromarray(np.full((size[1], size[0], 3), 50 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    cases = lines(
        tmp_path / "cases.jsonl",
        {"instruction": "make the circle red", "images": ["0.png"], "task": "a", "mask": "mask.png"},
        "",
        {"instruction": "make it a sketch", "images": ["0.png", "1.png"], "task": "b", "tags": ["style transfer"]},
        {"instruction": "draw a red circle", "seed": 5},
    )
    out = tmp_path / "recording"
    made = tagmoe("routing", "record", "--from", cases, "--model", model, "--out", out, "--case-mb", "0.001", *TINY)
    assert made.code == 0, made.err
    opened = read_recording(out)
    assert [len(case.grids) for case in opened.cases] == [2, 3, 1]
    assert opened.cases[1].grids[2] != opened.cases[1].grids[0]
    assert [case.facts.seed for case in opened.cases] == [0, 0, 5]
    assert [case.kept for case in opened.cases] == [(0,), (0,), (0,)]
    found = opened.tokens(opened.cases[0]).mask_hw
    assert found is not None
    assert found.mean() == pytest.approx(0.5)
    assert all(case.success is None for case in opened.cases)


BAD_LINES = {
    "no json": ("{", "no JSON"),
    "no instruction": ({"images": []}, "instruction"),
    "an empty instruction": ({"instruction": "  "}, "instruction"),
    "an unknown name": ({"instruction": "x", "image": "y"}, "image"),
    "a list": ("[1]", "the line"),
    "no such picture": ({"instruction": "x", "images": ["nowhere.png"]}, "nowhere.png"),
    "no picture": ({"instruction": "x", "images": ["cases.jsonl"]}, "is not a picture"),
    "an unknown tag": ({"instruction": "x", "tags": ["local edit"]}, "local edit"),
    "a negative seed": ({"instruction": "x", "seed": -1}, "seed"),
    "an empty mask": ({"instruction": "x", "mask": "black.png"}, "black all over"),
}


@pytest.mark.parametrize(("bad", "says"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_by_its_number(tagmoe, model: Path, tmp_path: Path, bad, says) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    path = lines(tmp_path / "cases.jsonl", {"instruction": "fine"}, bad)
    outcome = tagmoe("routing", "record", "--from", path, "--model", model, "--out", tmp_path / "out")
    outcome.refused(2, "Line 2 of", says)
    assert not (tmp_path / "out").exists()


def test_files_of_cases_that_are_none(tagmoe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tagmoe("routing", "record", "--from", tmp_path / "nowhere", "--out", out).refused(2, "cannot be read", "nowhere")
    tagmoe("routing", "record", "--from", lines(tmp_path / "empty", ""), "--out", out).refused(2, "is empty")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    tagmoe("routing", "record", "--from", tmp_path / "binary", "--out", out).refused(2, "not text in UTF-8")
    both = ("--from", tmp_path / "empty", "--tasks", "style")
    tagmoe("routing", "record", *both, "--out", out).refused(2, "--tasks", "--from")


def test_a_dense_model_and_unknown_tasks_are_refused_before_anything_is_loaded(tagmoe, tmp_path: Path) -> None:
    (tmp_path / "dense" / "transformer").mkdir(parents=True)
    (tmp_path / "dense" / "transformer" / "config.json").write_text('{"num_layers": 60}')
    out = tmp_path / "out"
    outcome = tagmoe("routing", "record", "--model", tmp_path / "dense", "--out", out)
    outcome.refused(2, "'dense' has no mixture layers", "tagmoe upcycle")
    tagmoe("routing", "record", "--tasks", "recolor", "--out", out).refused(2, "recolor", *list(TASKS)[:3])
    tagmoe("routing", "record", "--tasks", ",", "--out", out).refused(2, "nothing")


@pytest.mark.slow
def test_a_failure_on_the_way_leaves_nothing(tagmoe, model: Path, tmp_path: Path, monkeypatch) -> None:
    write = RecordingWriter.add

    def full(self: RecordingWriter, *arguments, **options):
        if self.cases == 1:
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **options)

    monkeypatch.setattr(RecordingWriter, "add", full)
    arguments = ["--cases", 2, "--tasks", "style", "--controls", 0, *TINY]
    outcome = tagmoe("routing", "record", "--model", model, "--out", tmp_path / "out", *arguments)
    outcome.refused(1, "cannot be written", "No space left")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_recording_is_refused(tagmoe, tmp_path: Path) -> None:
    tagmoe("routing", "report", tmp_path, "--out", tmp_path / "page").refused(1, "is no recording", "routing record")
    (tmp_path / "recording.json").write_text('{"format": 9}')
    tagmoe("routing", "report", tmp_path, "--out", tmp_path / "page").refused(1, "of format 9", "reads 1")
    assert not (tmp_path / "page").exists()
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_a_verb_the_help_is_shown(tagmoe, arguments) -> None:
    outcome = tagmoe("routing", *arguments)
    assert outcome.code == 0
    assert outcome.err == ""
    assert "record" in outcome.out
    assert "report" in outcome.out
