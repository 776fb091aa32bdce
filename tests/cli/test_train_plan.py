"""`tagmoe train --plan`: a table or JSON, a refusal after it, and options that are for it alone."""

from __future__ import annotations

import json

import pytest

# Two blocks are traced once. A deeper model is traced up to three times: tests/train/test_plan.py.
SMALL = {"unified.batch": 2, "precision": "fp32", "transformer.num_layers": 2, "moe.num_moe_blocks": 1}
RECIPE = ("train", "tagworld/quick", *(part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")))
RECIPE = (*RECIPE, "--plan")


def test_the_plan_is_printed_and_nothing_is_trained(tagmoe, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = json.loads(tagmoe(*RECIPE, "--json").out)
    assert plan["parameters"]["frozen"] == 0
    assert plan["parameters"]["trained"] == plan["parameters"]["all"] > 1e6
    assert plan["batch"] == {"batch": 2, "grids": [[4, 4], [4, 4]], "text_tokens": 64, "accumulate": 1}
    on_device = [part["bytes"] for part in plan["parts"] if part["place"] == "device"]
    assert plan["device_bytes"] == sum(on_device)
    assert plan["flops"]["backward"] > plan["flops"]["forward"] > 0
    table = tagmoe(*RECIPE, "--size", "128x64", "--references", "2", "--set", "parameters=moe").out
    assert "2 x (96 image + 64 text tokens)" in table
    assert "frozen linear layers" in table
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said_after_the_plan(tagmoe, monkeypatch) -> None:
    monkeypatch.setattr("tagmoe.pipeline.memory.room.host_memory", lambda: 1e6)
    outcome = tagmoe(*RECIPE)
    assert outcome.code == 1
    assert "trained weights" in outcome.out
    assert "Training needs" in outcome.err


@pytest.mark.parametrize("size", ["64", "0x64", "64x99999", "64 x 64"])
def test_a_size_that_is_none_is_refused(tagmoe, size: str) -> None:
    tagmoe(*RECIPE, "--size", size).refused(2, "--size", "1024x1024")


def test_options_of_the_plan_are_refused_without_it(tagmoe) -> None:
    tagmoe("train", "tagworld/quick", "--memory", "80gb").refused(2, "--plan")
