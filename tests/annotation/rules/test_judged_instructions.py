"""The rules against instructions that others judged: few answers are wrong, few are refused, and the count is right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from support.tools import load_tool

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("measure_judged")


def test_at_most_2_percent_are_wrong_and_20_percent_refused(tool: ModuleType) -> None:
    lines = tool.read_lines(FOLDER / "judged_instructions.jsonl")
    counts = Counter(tool.judge(line)[0] for line in lines)
    assert len(lines) == 200
    assert counts["wrong"] + counts["wrong on unclear"] <= 4
    assert counts["refused"] <= 40


def test_objections_name_their_line_and_a_reason(tool: ModuleType) -> None:
    lines = {line["n"]: line for line in tool.read_lines(FOLDER / "judged_instructions.jsonl")}
    for objection in tool.read_lines(FOLDER / "judged_objections.jsonl"):
        assert objection["n"] in lines
        assert objection["reason"]
        assert tool.judge(lines[objection["n"]] | objection)[0] == "right"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "right"),
        ({"scope": "global editing"}, "wrong"),
        ({"types": ["object editing"]}, "wrong"),
        ({"preservation_must": ["face preservation"]}, "wrong"),
        ({"preservation_must_not": ["background preservation"]}, "wrong"),
        ({"verdict": "unclear"}, "wrong on unclear"),
        ({"instruction": "make it better"}, "refused"),
        ({"instruction": "make it better", "verdict": "unclear"}, "rightly refused"),
    ],
)
def test_every_outcome_is_counted_as_it_should(tool: ModuleType, changes: dict[str, object], outcome: str) -> None:
    line = {
        "instruction": "make the car red",
        "verdict": "tags",
        "scope": "local editing",
        "types": ["attribute editing"],
        "preservation_must": ["structure preservation", "background preservation"],
        "preservation_must_not": ["face preservation"],
    }
    assert tool.judge(line | changes)[0] == outcome


def test_image_generation_stands_among_the_types_of_a_line_without_scope(tool: ModuleType) -> None:
    line = {
        "instruction": "turn the edge map into a photo of a castle",
        "verdict": "tags",
        "scope": None,
        "types": ["image generation"],
        "preservation_must": ["structure preservation"],
        "preservation_must_not": ["style preservation"],
    }
    assert tool.judge(line) == ("right", "")
    assert tool.report([line]).startswith("right")
