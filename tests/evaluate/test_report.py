"""The report: complete, escaped, and readable without a network."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.html_page import Page

from tagmoe.evaluate.report import Evaluation, render, results, write_report
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.pictures import data_address
from tagmoe.routing.case_routing import CaseRouting

EVIL = "<script>alert('x')</script>"


def evaluation(*, with_routing: bool = True) -> Evaluation:
    samples = cases(1, 0, ["generate", "add", "recolour", "style"])
    samples[1] = replace(samples[1], instruction=EVIL)
    images = [case.target if i % 2 else np.zeros_like(case.target) for i, case in enumerate(samples)]
    shares = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    maps = np.full((2, 4, 4, 4), 0.25)
    routing = [CaseRouting(shares, shares if case.sources else None, maps) for case in samples]
    return Evaluation(
        samples=samples,
        images=images,
        scores=score(samples, images),
        routing=routing if with_routing else None,
        model=EVIL,
        versions={"tagmoe": "0"},
        seed=0,
        steps=2,
        cfg=2.0,
        seconds=1.5,
        date="2026-01-01 00:00 UTC",
        command="tagmoe demo",
    )


def test_the_page_is_well_formed_and_shows_every_case() -> None:
    page = Page(render(evaluation()))
    assert page.count("article", "case") == 4
    assert page.count("table", "heat") == 4 + 3
    assert page.count("div", "map") == 4 * 2 * 4
    assert sum(tag == "rect" for tag, _ in page.tags) == 4 * 2 * 4 * 16


def test_the_page_loads_nothing_from_outside() -> None:
    text = render(evaluation())
    assert "http:" not in text
    assert "https:" not in text
    for tag, attributes in Page(text).tags:
        assert tag not in {"link", "iframe"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:image/png;base64,") or name not in attributes
    assert all(address.startswith("data:") for address in re.findall(r"url\(([^)]*)\)", text))


def test_what_comes_from_outside_is_escaped() -> None:
    text = render(evaluation())
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 3


def test_without_experts_the_page_has_no_routing() -> None:
    page = Page(render(evaluation(with_routing=False)))
    assert page.count("table", "heat") == 0
    assert page.count("article", "case") == 4


def test_results_are_plain_and_whole(tmp_path: Path) -> None:
    made = evaluation()
    data = write_report(made, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(data)) == results(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]
    assert data["success"] == made.scores.success.value
    assert [case["success"] for case in data["cases"]] == [v.success for v in made.scores.verdicts]
    assert set(data["routing"]) == {"generate", "add", "recolour", "style"}
    assert data["routing"]["generate"]["references"] is None
    wanted = {"success", "unchanged", "subject", "face", "style", "tasks", "held_out", "seconds", "versions", "seed"}
    assert wanted | {"steps", "cfg", "model", "cases"} <= set(data)


def test_a_picture_survives_its_address() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    head, _, body = data_address(Image.fromarray(picture)).partition(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))) == picture).all()


@pytest.mark.parametrize(
    ("share", "colour", "strength"), [(1.0, "above", 100), (0.25, "above", 0), (0.0, "below", 100)]
)
def test_a_cell_is_clear_at_chance_and_full_at_the_ends(share: float, colour: str, strength: int) -> None:
    text = render(replace(evaluation(), routing=[_routed(share)] * 4))
    assert f"color-mix(in srgb, var(--{colour}) {strength}%, transparent)" in text


def _routed(share: float) -> CaseRouting:
    shares = np.array([[share, *[(1 - share) / 3] * 3]])
    return CaseRouting(shares, None, np.full((1, 2, 2, 4), 0.25))
