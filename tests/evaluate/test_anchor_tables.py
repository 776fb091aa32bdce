"""The tools that measure metrics: their edits are right, and their figures are those of plain sums."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from support.reference_pairs import pairs_of
from support.tools import FOLDER, load_tool

from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.metrics.metric import Measure, NoValue


@pytest.fixture(scope="module")
def anchors() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return load_tool("write_metric_anchors")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def blind() -> ModuleType:
    return load_tool("measure_blind_spots")


def test_means_are_over_photographs_and_what_has_no_value_is_counted(anchors: ModuleType) -> None:
    values = [("cat", 1.0), ("cat", 3.0), ("cup", 5.0), ("cup", NoValue("undefined", "too small"))]
    values += [("cup", NoValue("not_applicable", "no mask"))]
    row = anchors.summary("m", Measure("v", "higher", "a value"), "copy", values)
    assert (row["mean"], row["n"], row["photographs"], row["least"], row["most"]) == (3.5, 3, 2, 1.0, 5.0)
    assert row["without"] == {"too small": 1}
    assert row["low"] is None, "two photographs are too few for an interval"
    assert anchors.cell(row) == "3.50 (1 of 4 undefined)"


def test_the_anchors_of_the_photographs_are_what_they_are_called(anchors: ModuleType, tmp_path: Path) -> None:
    cases = sys.modules["photograph_cases"]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    album = cases.Album(tmp_path / "album")
    for number in range(2):
        source, target = album.keep(f"s{number}", picture), album.keep(f"t{number}", cases._moved(picture, number + 1))
        album.add("g", cases._case(number, "t", source=source, target=target), shuffled=picture, a_crop=picture)
    shown = list(album.shown())
    assert cases.kinds(shown) == ["copy", "target", "black", "shuffled", "a crop"]
    assert len(shown) == 10
    for one in shown:
        wanted = {"copy": one.pair.source, "target": one.pair.target}.get(one.kind, picture)
        if one.kind == "black":
            wanted = Image.new("RGB", picture.size)
        assert one.pair.output.tobytes() == wanted.tobytes(), "a picture that is given stands in the anchor's place"
    assert (np.asarray(cases._moved(picture, 3))[:, 3:] == np.asarray(picture)[:, :-3]).all()


def test_a_wrong_output_of_the_right_answers_value_is_a_blind_spot(blind: ModuleType, tmp_path: Path) -> None:
    """Lower is better: black is told from the right answer in one of two cases, the copy in none."""
    black = Image.new("RGB", (16, 16))
    cases = [Case(bench="x", id=name, task="t", instruction="x", source=f"{name}.png") for name in "ab"]
    pairs = pairs_of(tmp_path, cases, [black, black])
    shown = [
        blind.Shown(kind, pair, float(kind == "target"))
        for kind in ("target", "copy", "black", "packaged model")
        for pair in pairs
    ]
    values = [1.0, 1.0, 0.0, 1.0, 2.0, 0.5, NoValue("undefined", "none"), 3.0]
    found = blind.of_measure("m", Measure("v", "lower", "a value"), shown, values)
    assert found.misled == {"copy": (2, 2), "black": (1, 2), "packaged model": (0, 1)}
    assert (found.n, found.lacking) == (7, {"none": 1})
    truth, turned = [1, 1, 0, 0, 0, 0, 0], [-1, -1, 0, -1, -2, -0.5, -3]
    assert found.correlation[0] == pytest.approx(np.corrcoef(truth, turned)[0, 1])
    # Of five pairs of a right and a wrong one, two are in order and one is a tie.
    assert (found.order[0], found.pairs) == (pytest.approx(2.5 / 5), 5)
    likeness = Measure("l1_source", "neither", "a difference")
    assert blind.of_measure("m", likeness, shown, values).misled == found.misled
    nothing = blind.of_measure("m", likeness, shown, [NoValue("undefined", "none")] * 8)
    assert (nothing.n, nothing.misled, blind.why_none(nothing)) == (0, {}, "none")
