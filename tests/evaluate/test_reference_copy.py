"""reference-copy: what was pasted is found at any place, size and turn; another picture of the same thing is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.reference_pairs import pairs_of

from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.metrics.metric import NoValue, Value
from tagmoe.evaluate.metrics.reference_copy import ReferenceCopy

PHOTOGRAPHS = {name: Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in ("coffee", "cat")}
REFERENCE, GROUND = PHOTOGRAPHS["coffee"], PHOTOGRAPHS["cat"].resize((640, 640))


def value(folder: Path, references: list[Image.Image], output: Image.Image) -> Value:
    for number, picture in enumerate(references):
        picture.save(folder / f"{number}.png")
    names = tuple(f"{number}.png" for number in range(len(references)))
    (pair,) = pairs_of(folder, [Case(bench="x", id="a", task="r", instruction="x", refs=names)], [output])
    return ReferenceCopy()(pair)["reference_copy"]


@settings(max_examples=3, deadline=None)
@given(scale=st.floats(0.5, 1.0), left=st.floats(0, 1), top=st.floats(0, 1))
def test_a_paste_is_found(tmp_path_factory: pytest.TempPathFactory, scale: float, left: float, top: float) -> None:
    size = (int(600 * scale), int(400 * scale))
    output = GROUND.copy()
    place = (int(left * (640 - size[0])), int(top * (640 - size[1])))
    output.paste(REFERENCE.resize(size, Image.Resampling.BICUBIC), place)
    assert value(tmp_path_factory.mktemp("paste"), [REFERENCE], output) >= 0.9  # type: ignore[operator]


def test_a_turned_paste_is_found_and_the_most_copied_reference_counts(tmp_path: Path) -> None:
    small = REFERENCE.resize((360, 240), Image.Resampling.BICUBIC)
    turned = small.rotate(33, expand=True, resample=Image.Resampling.BICUBIC)
    output = GROUND.copy()
    output.paste(turned, (100, 120), Image.new("L", small.size, 255).rotate(33, expand=True))
    other = Image.fromarray(skimage.data.astronaut())
    assert value(tmp_path, [other, REFERENCE], output) >= 0.9  # type: ignore[operator]
    assert value(tmp_path, [other], output) == 0.0


def test_half_of_the_reference_is_half(tmp_path: Path) -> None:
    half = REFERENCE.crop((0, 0, REFERENCE.width // 2, REFERENCE.height))
    output = GROUND.copy()
    output.paste(half.resize((300, 400), Image.Resampling.BICUBIC), (200, 100))
    assert value(tmp_path, [REFERENCE], output) == pytest.approx(0.5, abs=0.06)


def test_another_picture_is_no_copy(tmp_path: Path) -> None:
    shown = {
        "another photograph": GROUND,
        "mirrored": REFERENCE.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "black": Image.new("RGB", (400, 300)),
        "noise": Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)),
        "one pixel": Image.new("RGB", (1, 1), "red"),
    }
    for name, output in shown.items():
        assert value(tmp_path, [REFERENCE], output) == 0.0, name


def test_without_a_reference_there_is_no_value(tmp_path: Path) -> None:
    assert value(tmp_path, [], GROUND) == NoValue("not_applicable", "the case has no reference")
