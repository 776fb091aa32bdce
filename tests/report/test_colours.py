"""The palette: told apart by everybody, readable on both grounds, and the same for an expert on every page."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_recordings import EXPERTS, TIMES, about, facts, shown, traces

from tagmoe.evaluate.report import Evaluation
from tagmoe.evaluate.report import render as render_demo
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.model.routing import RoutingTrace
from tagmoe.report.colours import DARK, LIGHT, SERIES, rgb, series_colour, style_variables, text_on
from tagmoe.report.svg import styled, subplots, svg_text
from tagmoe.routing.case_routing import CaseRouting
from tagmoe.routing.explain import Explanation, TagReading
from tagmoe.routing.explain import render as render_explanation
from tagmoe.routing.reading import read_recording
from tagmoe.routing.recording import RecordingWriter
from tagmoe.routing.report import PAGE, write_report

REPORT = Path(__file__).parents[2] / "src" / "tagmoe" / "report"
# Machado, Oliveira and Fernandes 2009, severity 1: linear sRGB as people without one kind of cone see it.
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    levels = np.array(rgb(colour)) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen; distances above about 2 can be noticed."""
    seen = np.clip(np.array(SIGHT[sight]) @ linear(colour), 0, 1)
    x, y, z = np.cbrt(XYZ @ seen / (0.95047, 1, 1.08883))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """WCAG: 1 for equal colours to 21 for black and white."""
    light, dark = sorted((float(XYZ[1] @ linear(colour)) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("sight", SIGHT)
def test_experts_are_told_apart_by_everybody(sight: str) -> None:
    distances = [np.linalg.norm(lab(a, sight) - lab(b, sight)) for a, b in combinations(SERIES, 2)]
    assert min(distances) > 15


def test_any_number_of_experts_has_different_colours() -> None:
    assert len({series_colour(number) for number in range(64)}) == 64


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_reads_on_its_ground(colours: dict[str, str]) -> None:
    for ground in ("paper", "card"):
        assert contrast(colours["ink"], colours[ground]) > 10
        for text in ("soft", "accent", "good", "bad"):
            assert contrast(colours[text], colours[ground]) > 4.5
    assert contrast(colours["warnink"], colours["warn"]) > 4.5
    for series in SERIES:
        assert contrast(series, colours["card"]) > 2


@pytest.mark.parametrize("ground", ["#000000", "#ffffff", *SERIES])
def test_text_on_a_coloured_ground_is_the_better_of_dark_and_white(ground: str) -> None:
    assert contrast(text_on(ground), ground) > 3


def test_both_schemes_define_every_variable_that_the_style_and_the_figures_use() -> None:
    assert LIGHT.keys() == DARK.keys()
    light, dark = style_variables().split("prefers-color-scheme: dark")
    assert dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", light)) == LIGHT
    assert dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", dark)) == DARK
    with styled():
        figure, (axes,) = subplots(2, 2)
        axes.set_title("x")
        used = re.findall(r"var\(--([a-z]+), (#[0-9a-f]{6})\)", svg_text(figure))
    assert used
    assert all(LIGHT[name] == colour for name, colour in used)
    # Set where they are used: a series' colour, a cell's value, a picture.
    own = {"c", "v", "share", "picture"}
    for template in [REPORT / "page.css", *REPORT.parent.rglob("*.j2")]:
        assert set(re.findall(r"var\(--([a-z]+)\)", template.read_text())) <= LIGHT.keys() | own, template


@pytest.mark.slow
def test_an_expert_has_one_colour_on_every_page(tmp_path: Path) -> None:
    samples = cases(1, 0, ["add"])
    even = np.full((1, EXPERTS), 1 / EXPERTS)
    demo = render_demo(
        Evaluation(
            samples=samples,
            images=[samples[0].target],
            scores=score(samples, [samples[0].target]),
            routing=[CaseRouting(even, even, np.full((1, 2, 2, EXPERTS), 0.25))],
            **{
                "model": "",
                "versions": {},
                "seed": 0,
                "steps": 1,
                "cfg": 1.0,
                "seconds": 1.0,
                "date": "",
                "command": "",
            },
        )
    )
    scores = torch.rand(1, 1, 4, EXPERTS).softmax(dim=-1)
    explained = render_explanation(
        Explanation(
            instruction="",
            sources=[],
            result=Image.new("RGB", (8, 8)),
            traces=[RoutingTrace(scores, scores.topk(1).indices, ((1, 2, 2),))],
            signature_N=[1 / EXPERTS] * EXPERTS,
            tags=TagReading(None, "", None, ""),
            facts={},
        )
    )
    (tmp_path / "recording").mkdir()
    (tmp_path / "report").mkdir()
    writer = RecordingWriter(tmp_path / "recording", about())
    for n in range(3):
        writer.add(facts(n, "add"), traces(n), TIMES, shown(n), success=True, reasons=[])
    writer.close()
    write_report(read_recording(tmp_path / "recording"), tmp_path / "report")
    routing = (tmp_path / "report" / PAGE).read_text()
    for number in range(EXPERTS):
        colour = series_colour(number)
        for page in (demo, explained, routing):
            marked = re.findall(rf'--c:(#[0-9a-f]{{6}})"></span>(?:expert |E){number + 1}\b', page)
            assert marked
            assert set(marked) == {colour}
        # the lines of the figure, and the maps as the slider draws them
        assert f"stroke: {colour}" in routing
    assert f"const colours = {[list(rgb(series_colour(n))) for n in range(EXPERTS)]};" in routing
