"""The page of one edit: its maps show the trace, it needs nothing from outside, and its size is bounded."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from support.html_page import Page

from tagmoe.model.routing import RoutingTrace
from tagmoe.report.colours import series_colour
from tagmoe.routing import explain
from tagmoe.routing.explain import Explanation, TagReading, render
from tagmoe.routing.predicted_tags import PredictedTags
from tagmoe.routing.tags_right import TagsRight
from tagmoe.tags import TAG_NAMES, TaskDescriptor

GRIDS = ((1, 4, 6), (1, 5, 3))
SCOPE = ("local editing",)
RED = TaskDescriptor(SCOPE, ("attribute editing",), ("background preservation",))
ADD = TaskDescriptor(SCOPE, ("object editing",), ("background preservation",))


def trace(
    seed: int, layers: int = 2, experts: int = 4, grids: tuple[tuple[int, int, int], ...] = GRIDS
) -> RoutingTrace:
    tokens = sum(frames * height * width for frames, height, width in grids)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(layers, 1, tokens, experts, generator=generator).softmax(dim=-1)
    return RoutingTrace(scores, scores.topk(1).indices, grids)


def predicted(task: TaskDescriptor) -> PredictedTags:
    return PredictedTags(task, 0.91, tuple((name, 0.9 - 0.1 * i) for i, name in enumerate(TAG_NAMES)))


def explanation(**changes: object) -> Explanation:
    traces = [trace(seed) for seed in range(3)]
    picture = Image.new("RGB", (24, 20), "teal")
    one = Explanation(
        instruction="make the circle red",
        sources=[picture],
        result=picture.rotate(180),
        traces=traces,
        signature_N=[0.1, 0.2, 0.3, 0.4],
        tags=TagReading(predicted(ADD), "", RED, "The words are those of the task recolour."),
        facts={"model": "tiny", "seed": "7"},
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def decode(address: str) -> np.ndarray:
    """The RGBA pixels of a data: address."""
    head, data = address.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


# Maps -------------------------------------------------------------------------------------------------------------


def test_a_map_of_first_choices_has_every_token_in_the_colour_of_its_expert() -> None:
    one = trace(0)
    (layer, _) = explain.layer_routing([one], [0])
    for number, (_, height, width) in enumerate(GRIDS):
        start = 0 if number == 0 else 24
        ids = one.expert_ids_LBTA[0, 0, start : start + height * width, 0].reshape(height, width).tolist()
        pixels = decode(layer.pictures[number].choice)
        assert pixels.shape == (height, width, 4)
        for y in range(height):
            for x in range(width):
                colour = "#" + "".join(f"{level:02x}" for level in pixels[y, x, :3])
                assert colour == series_colour(ids[y][x])
    assert layer.steps == [layer.pictures[0].choice]


def test_maps_of_scores_are_means_over_steps_by_the_highest_score_of_the_layer() -> None:
    traces = [trace(seed) for seed in range(3)]
    mean_LTN = torch.stack([one.scores_LBTN[:, 0] for one in traces]).mean(dim=0).numpy()
    for number, layer in enumerate(explain.layer_routing(traces, [0, 2])):
        assert layer.full == pytest.approx(mean_LTN[number].max())
        for picture, span in zip(layer.pictures, (slice(0, 24), slice(24, 39)), strict=True):
            for n, expert in enumerate(picture.experts):
                scores = mean_LTN[number, span, n]
                alpha = decode(expert.image)[..., 3].reshape(-1) / 255
                assert np.abs(alpha - scores / layer.full).max() < 0.5 / 15 + 0.01
                assert (expert.low, expert.high) == (pytest.approx(scores.min()), pytest.approx(scores.max()))
            assert sum(expert.share for expert in picture.experts) == pytest.approx(1)
        assert len(layer.steps) == 2


def test_the_lines_are_the_shares_at_every_step() -> None:
    traces = [trace(seed) for seed in range(3)]
    layer = explain.layer_routing(traces, [0])[1]
    height = 84
    for n, line in enumerate(layer.lines):
        points = [tuple(map(float, point.split(","))) for point in line.split()]
        shares = [float(one.utilisation(0)[1, 0, n]) for one in traces]
        assert [1 - y / height for _, y in points] == pytest.approx(shares, abs=1e-3)


def test_fine_maps_are_averaged_not_picked() -> None:
    scores = torch.zeros(1, 1, 80 * 80, 2)
    scores[..., 0], scores[..., 1] = 0.4, 0.6
    scores[:, :, ::2, :] = scores[:, :, ::2, :].flip(-1)  # every other column the other way round
    one = RoutingTrace(scores, scores.topk(1).indices, ((1, 80, 80),))
    (layer,) = explain.layer_routing([one], [0])
    pixels = decode(layer.pictures[0].experts[0].image)
    assert pixels.shape[:2] == (explain.MAX_GRID, explain.MAX_GRID)
    assert np.abs(pixels[..., 3] / 255 - 0.5 / 0.6).max() < 0.5 / 15 + 0.01


@pytest.mark.parametrize(("steps", "shown"), [(1, [0]), (3, [0, 1, 2]), (30, [0, 4, 8, 12, 17, 21, 25, 29])])
def test_a_few_steps_are_drawn_from_first_to_last(steps: int, shown: list[int]) -> None:
    assert explain.drawn_steps(steps) == shown


# The page ---------------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    html = render(explanation())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.names)
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert html.count("url(") == html.count("url(data:image/") > 0
    assert "prefers-color-scheme: dark" in html


def test_text_from_outside_is_escaped() -> None:
    hostile = '"><script>alert(1)</script><img src=http://evil/x>'
    tags = TagReading(None, hostile, None, hostile)
    html = render(explanation(instruction=hostile, facts={hostile: hostile}, tags=tags))
    page = Page(html)
    assert "script" not in page.names
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "".join(page.visible).count("<script>alert(1)</script>") >= 4


@pytest.mark.slow
def test_prediction_and_rules_stand_beside_each_other() -> None:
    words = "".join(Page(render(explanation())).visible)
    assert "Differ. Of the rules' tags, 2 of 3 are predicted" in " ".join(words.split())
    assert "wrongly predicted: object editing; missed: attribute editing." in words
    same = explanation(tags=TagReading(predicted(RED), "", RED, "because", right=None))
    words = " ".join("".join(Page(render(same)).visible).split())
    assert "Agree. The predicted tags are those of the rules." in words
    assert "was not measured for this model" in words
    rows = explain.tag_rows(same.tags)
    assert [row.name for row in rows] == list(TAG_NAMES)
    assert {row.name for row in rows if row.predicted} == {row.name for row in rows if row.given} == set(RED.tags)


def test_without_alignment_or_rules_the_page_gives_the_reason() -> None:
    page = Page(render(explanation(tags=TagReading(None, "It has none.", None, "TagWorld only."))))
    words = "".join(page.visible)
    assert "No prediction. It has none." in words
    assert "TagWorld only." in words
    assert "All tags" not in words
    assert "gree" not in words.split("The routing signature")[0].split("What the task is")[1]


@pytest.mark.parametrize(("baseline", "verdict"), [(0.05, "That is better than"), (0.2, "not shown to be")])
def test_how_often_tags_are_right_is_judged_by_the_constant_answer(baseline: float, verdict: str) -> None:
    right = TagsRight(200, 0.25, 0.19, 0.31, 0.7, baseline, 0.6, 500, 12, 3.0, "a command", "sum")
    text = explain.rightness(right)
    assert "200 test cases" in text
    assert "25.0 % (95 % interval 19.0 % to 31.0 %)" in text
    assert verdict in text


@pytest.mark.parametrize(("references", "experts", "top_k"), [(0, 2, 1), (3, 4, 2), (1, 12, 1)])
def test_any_number_of_references_and_experts_has_a_page(references: int, experts: int, top_k: int) -> None:
    grids = ((1, 4, 4), *((1, 3, 2 + i) for i in range(references)))
    one = trace(0, layers=1, experts=experts, grids=grids)
    one = RoutingTrace(one.scores_LBTN, one.scores_LBTN.topk(top_k).indices, grids)
    picture = Image.new("RGB", (16, 16))
    page = Page(render(explanation(sources=[picture] * references, traces=[one], signature_N=[1 / experts] * experts)))
    assert page.addresses
    assert len(page.addresses) == (1 + references) * (1 + experts) + 1
    assert ("only the first choice is counted" in "".join(page.visible)) == (top_k > 1)


@pytest.mark.slow
def test_the_page_of_a_full_size_model_stays_small() -> None:
    grids = ((1, 64, 64), (1, 64, 64))
    traces = [trace(seed, layers=10, grids=grids) for seed in range(10)]
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    # Noise in maps and pictures is the worst that can be compressed.
    assert len(render(explanation(sources=[picture], result=picture, traces=traces))) < 3e6


def test_metadata_of_pictures_stays_out_of_the_page() -> None:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", "secret")
    Image.new("RGB", (300, 300)).save(buffer, format="PNG", pnginfo=info)
    picture = Image.open(buffer)
    picture.info["comment"] = b"secret"
    html = render(explanation(result=picture))
    datas = [part.split(")")[0].split('"')[0] for part in html.split(";base64,")[1:]]
    assert all(b"secret" not in base64.b64decode(data) for data in datas)
