"""--memory: what is chosen is said, done and reported; nothing changes where everything fits."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from tagmoe.cli.options import Memory
from tagmoe.pipeline.memory.plans import BUDGETS, CHOICES, CPU_PLANS, PLANS, RESERVE
from tagmoe.pipeline.memory.sizes import read_sizes
from tagmoe.pipeline.packaged import packaged_folder

PROMPT = "make the circle red"
BY_NAME = {plan.name: plan for plan in PLANS}


@pytest.fixture(autouse=True)
def processor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers on a machine that has a GPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the machine report just as much memory as a plan of the packaged model needs."""
    sizes = read_sizes(packaged_folder(), value_bytes=4)

    def limit(name: str, share: float = 1.0) -> None:
        free = share * BY_NAME[name].estimate(sizes).device
        monkeypatch.setattr("tagmoe.pipeline.memory.room.host_memory", lambda: free)

    return limit


def test_the_choices_are_those_of_the_plans() -> None:
    assert get_args(Memory) == CHOICES


@pytest.mark.slow
def test_by_default_all_is_resident_and_nothing_is_said(tagmoe, model, picture, tmp_path) -> None:
    pictures, errors = [], []
    for number, words in enumerate(([], ["--memory", "auto"], ["--memory", "24gb"])):
        out = tmp_path / f"{number}.png"
        command = ["edit", picture, "-p", PROMPT, "-o", out, "--model", model, "--steps", 1, "--seed", 2, "--json"]
        outcome = tagmoe(*command, *words)
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["memory_plan"] == "resident"
        pictures.append(np.asarray(Image.open(out)))
        errors.append(outcome.err)
    assert all((other == pictures[0]).all() for other in pictures)
    assert not any("memory plan" in error for error in errors)


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "plan"), [("edit", "4-bit"), ("generate", "8-bit")])
def test_a_plan_that_is_taken_is_said_in_one_line(tagmoe, picture, tmp_path, room_for, verb, plan) -> None:
    room_for(plan)
    out = tmp_path / "out.png"
    given = [picture] if verb == "edit" else []
    outcome = tagmoe(verb, *given, "-p", PROMPT, "-o", out, "--steps", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["memory_plan"] == plan
    lines = [line for line in outcome.err.splitlines() if "memory plan" in line]
    assert len(lines) == 1
    assert f"memory plan {plan}: " in lines[0]
    assert f"within {BY_NAME[plan].tolerance:g} of 255" in lines[0]
    assert Image.open(out).size == (64, 64)


def test_when_nothing_fits_or_the_library_is_missing_one_sentence_says_so(
    tagmoe, tmp_path, room_for, monkeypatch
) -> None:
    command = ["generate", "-p", PROMPT, "-o", tmp_path / "out.png", "--steps", 1]
    room_for("4-bit", 0.5)
    tagmoe(*command).refused(1, "No memory plan fits tagworld", "GB")
    tagmoe(*command, "--memory", "2gb").refused(2, "2gb", "24gb")
    room_for("4-bit")
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    outcome = tagmoe(*command)
    assert outcome.code == 3
    assert "pip install 'tagmoe[memory]'" in outcome.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_info_prints_the_plans_and_their_arithmetic(tagmoe, model) -> None:
    data = json.loads(tagmoe("info", "--memory", "--model", model, "--json").out)
    sizes = read_sizes(model, value_bytes=4)
    assert data["model"] == "random"
    assert [row["name"] for row in data["plans"]] == [plan.name for plan in CPU_PLANS]
    for row, plan in zip(data["plans"], CPU_PLANS, strict=True):
        estimate = plan.estimate(sizes)
        assert (row["device_bytes"], row["host_bytes"]) == (estimate.device, estimate.host)
        assert row["device_bytes"] == max(row["moments"].values())
        assert all(line["how"] for line in row["arithmetic"])
        assert "auto" in row["fits"]
    assert data["chosen"] == dict.fromkeys(CHOICES, "resident")
    text = tagmoe("info", "--memory", "--model", model).out
    assert all(plan.name in text for plan in CPU_PLANS)
    assert f"{sizes.transformer.parameters:,} parameters at 4 bytes" in text
    assert "auto* 8gb* 16gb* 24gb* 48gb* 80gb*" in text


@pytest.mark.slow
def test_info_of_the_full_size_model_needs_no_files(tagmoe) -> None:
    data = json.loads(tagmoe("info", "--memory", "--full-size", "--json").out)
    assert data["chosen"] == {
        "8gb": "group-offload", "16gb": "group-offload", "24gb": "4-bit", "48gb": "8-bit", "80gb": "resident"
    }  # fmt: skip
    assert data["budget_bytes"] == {name: int(size - RESERVE) for name, size in BUDGETS.items()}
    text = tagmoe("info", "--memory", "--full-size").out
    assert "22,695,294,528 parameters at 2 bytes" in text
    assert "8,292,166,656 parameters at 2 bytes" in text


def test_info_marks_what_auto_would_take_in_less_memory(tagmoe, room_for) -> None:
    room_for("4-bit")
    data = json.loads(tagmoe("info", "--memory", "--json").out)
    assert data["chosen"] == {"auto": "4-bit"} | dict.fromkeys(BUDGETS, "resident")
    fitting = [row["name"] for row in data["plans"] if "auto" in row["fits"]]
    assert fitting == ["4-bit", "4-bit-in-turns", "blocks-from-disk"]
    room_for("4-bit", 0.5)
    data = json.loads(tagmoe("info", "--memory", "--json").out)
    assert data["chosen"]["auto"] is None


def test_memory_words_that_do_not_go_together(tagmoe, model, tmp_path) -> None:
    tagmoe("info", "tags", "--memory").refused(2, "--memory stands alone")
    tagmoe("info", "--memory", "--full-size", "--model", model).refused(2, "--memory stands alone")
    tagmoe("info", "--full-size").refused(2, "add --memory")
    tagmoe("info", "--memory", "--model", tmp_path / "nowhere").refused(3, "nowhere")


@pytest.mark.slow
def test_the_arithmetic_loads_neither_diffusers_nor_transformers() -> None:
    code = (
        "import sys; from tagmoe.cli import run; code = run(['info', '--memory']); "
        "print(sorted({'diffusers', 'transformers', 'bitsandbytes'} & set(sys.modules)), file=sys.stderr); "
        "sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr.strip() == "[]"
    assert "tagworld" in result.stdout
