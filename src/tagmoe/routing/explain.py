"""Explain one edit as an offline HTML page: where each expert worked, and which tags its routing predicts.

The page loads no other files. Its size is bounded for any model: maps have at most MAX_GRID tokens a side, and at most
MAX_STEPS denoising steps are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tagmoe.model.routing import RoutingTrace
from tagmoe.pictures import data_address
from tagmoe.report.colours import rgb, series_colour
from tagmoe.report.numbers import percent, percent_between
from tagmoe.report.pages import page_environment
from tagmoe.routing.predicted_tags import PredictedTags
from tagmoe.routing.tags_right import TagsRight
from tagmoe.sentences import counted
from tagmoe.tags import TAG_NAMES, TaskDescriptor

MAX_GRID = 40
MAX_STEPS = 8
PICTURE_SIDE = 512
# Shades of a map of scores: 16 fit into 4 bits of a PNG, and nobody would see more.
_SHADES = 16
_CHART = (260, 84)


@dataclass(frozen=True)
class TagReading:
    """The tags of one edit: those predicted, and those of the rules. Where one is None, the text beside it says why.

    rule_cosine: cos(H_pred(g), s) with the rules' tags, which is 1 - L_align of Eq. 4. effective_rank: that of W_tag.
    right: how often predictions are right on the whole test set.
    """

    predicted: PredictedTags | None
    why_not_predicted: str
    rules: TaskDescriptor | None
    rules_reason: str
    rule_cosine: float | None = None
    effective_rank: float | None = None
    right: TagsRight | None = None


@dataclass(frozen=True)
class Explanation:
    """Everything the page shows of one edit (or generation). facts: what made it, in words.

    traces: the full routing of every denoising step; the first sample of the batch is shown. signature_N: g of Eq. 3.
    """

    instruction: str
    sources: Sequence[Image.Image]
    result: Image.Image
    traces: Sequence[RoutingTrace]
    signature_N: Sequence[float]
    tags: TagReading
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ExpertMap:
    """One expert on one picture in one layer: its map of scores, its share of first choices, its range of scores."""

    image: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class PictureRouting:
    """One layer on one picture (0: result, 1..: references): the map of first choices, and one map for each expert."""

    picture: int
    choice: str
    experts: list[ExpertMap]


@dataclass(frozen=True)
class LayerRouting:
    """One mixture layer: its pictures, and how the result's first choices change over the denoising steps.

    full: the highest score in the layer; score maps show it in full colour. lines: points of an SVG polyline for each
    expert. steps: maps of first choices at the drawn steps.
    """

    pictures: list[PictureRouting]
    full: float
    lines: list[str]
    steps: list[str]


@dataclass(frozen=True)
class TagRow:
    """One tag of the vocabulary: its cosine, and whether it is predicted and given by the rules (None: no rules)."""

    name: str
    cosine: float
    predicted: bool
    given: bool | None


def render(explanation: Explanation) -> str:
    """The HTML page. All text is escaped: instructions and model names come from outside."""
    traces = explanation.traces
    experts = traces[0].scores_LBTN.shape[-1]
    pictures = [explanation.result, *explanation.sources]
    shown = drawn_steps(len(traces))
    return (
        page_environment("tagmoe.routing")
        .get_template("explain.html.j2")
        .render(
            e=explanation,
            tags=explanation.tags,
            rows=tag_rows(explanation.tags),
            pictures=[_picture_address(picture) for picture in pictures],
            shapes=[_map_shape(traces[0], image) for image in range(len(traces[0].grids))],
            experts=experts,
            top_k=traces[0].expert_ids_LBTA.shape[-1],
            layers=layer_routing(traces, shown),
            shown=[step + 1 for step in shown],
            chart=_CHART,
            max_grid=MAX_GRID,
            agreement=agreement(explanation.tags),
            right=rightness(explanation.tags.right),
        )
    )


def layer_routing(traces: Sequence[RoutingTrace], shown: Sequence[int]) -> list[LayerRouting]:
    """The maps and curves of every layer, from the traces of all denoising steps. shown: the steps to draw."""
    images = len(traces[0].grids)
    experts = traces[0].scores_LBTN.shape[-1]
    scores = [_mean_over_steps(traces, image, _scores) for image in range(images)]
    votes = [_mean_over_steps(traces, image, first_choices) for image in range(images)]
    shares_SLN = np.stack([trace.utilisation(0)[:, 0].numpy() for trace in traces])
    choices = [first_choices(traces[step], 0) for step in shown]
    layers = []
    for layer in range(len(scores[0])):
        full = max(float(one[layer].max()) for one in scores)
        pictures = [
            PictureRouting(
                image,
                choice_map(votes[image][layer], experts),
                [_expert_map(scores[image][layer], votes[image][layer], n, full) for n in range(experts)],
            )
            for image in range(images)
        ]
        lines = [_points(shares_SLN[:, layer, n]) for n in range(experts)]
        layers.append(LayerRouting(pictures, full, lines, [choice_map(one[layer], experts) for one in choices]))
    return layers


def first_choices(trace: RoutingTrace, image: int) -> np.ndarray:
    """1 where an expert is a token's first choice, else 0: (L, h, w, N), for one picture of the first sample."""
    frames, height, width = trace.grids[image]
    start = sum(int(np.prod(grid)) for grid in trace.grids[:image])
    ids = trace.expert_ids_LBTA[:, 0, start : start + frames * height * width, 0].numpy()
    chosen = np.eye(trace.scores_LBTN.shape[-1], dtype=np.float32)[ids]
    return chosen.reshape(len(ids), frames * height, width, -1)


def drawn_steps(steps: int) -> list[int]:
    """At most MAX_STEPS of the steps, evenly from the first to the last."""
    return sorted({round(step) for step in np.linspace(0, steps - 1, min(steps, MAX_STEPS))})


def choice_map(votes_hwN: np.ndarray, experts: int) -> str:
    """The expert that most tokens chose, at every place, in the experts' colours; a PNG as a data: address."""
    chosen = _shrink(votes_hwN).argmax(axis=-1).astype(np.uint8)
    picture = Image.fromarray(chosen, mode="P")
    picture.putpalette([level for n in range(experts) for level in rgb(series_colour(n))])
    return data_address(picture)


def score_map(scores_hw: np.ndarray, colour: str) -> str:
    """Values of one expert in its colour, from 0 (transparent) to 1 (opaque), as a PNG in a data: address."""
    levels = np.rint(np.clip(scores_hw, 0, 1) * (_SHADES - 1)).astype(np.uint8)
    picture = Image.fromarray(levels, mode="P")
    picture.putpalette(list(rgb(colour)) * _SHADES)
    return data_address(picture, transparency=bytes(round(255 * level / (_SHADES - 1)) for level in range(_SHADES)))


def tag_rows(tags: TagReading) -> list[TagRow]:
    """Every tag, best first; empty without a prediction."""
    if tags.predicted is None:
        return []
    said = set(tags.predicted.descriptor.tags)
    given = None if tags.rules is None else set(tags.rules.tags)
    return [
        TagRow(name, cosine, name in said, None if given is None else name in given)
        for name, cosine in tags.predicted.ranking
    ]


def agreement(tags: TagReading) -> str:
    """A sentence that says whether prediction and rules agree; empty when there is nothing to compare."""
    if tags.predicted is None or tags.rules is None:
        return ""
    said, given = set(tags.predicted.descriptor.tags), set(tags.rules.tags)
    if said == given:
        return "The predicted tags are those of the rules."
    parts = [f"Of the rules' tags, {len(said & given)} of {len(given)} are predicted"]
    for text, names in (("wrongly predicted", said - given), ("missed", given - said)):
        if names:
            parts.append(f"{text}: {', '.join(sorted(names, key=TAG_NAMES.index))}")
    return "; ".join(parts) + "."


def rightness(right: TagsRight | None) -> str:
    """How often this model's predicted tags are right, in plain words."""
    if right is None:
        return "How often predicted tags are right on a test set was not measured for this model."
    verdict = (
        "That is better than the constant answer."
        if right.exact_low > right.baseline_exact
        else "So the prediction is not shown to be better than the constant answer: read it as such."
    )
    between = percent_between(right.exact_low, right.exact_high, 1)
    return (
        f"On {counted(right.cases, 'test case')} of this model (seed {right.seed}, {counted(right.steps, 'step')}, "
        f"guidance {right.cfg:g}) "
        f"the predicted set is exactly right in {percent(right.exact, 1)} (95 % interval {between}), F1 of "
        f"single tags {right.f1:.2f}. Always answering the most frequent set is right in "
        f"{percent(right.baseline_exact, 1)}, F1 {right.baseline_f1:.2f}. {verdict}"
    )


# Parts ------------------------------------------------------------------------------------------------------------


def _scores(trace: RoutingTrace, image: int) -> np.ndarray:
    return trace.image(image)[:, 0].numpy()


def _mean_over_steps(
    traces: Sequence[RoutingTrace], image: int, of: Callable[[RoutingTrace, int], np.ndarray]
) -> np.ndarray:
    """(L, h, w, N) in fp64. Steps are added one by one, because all at once would not fit for a large model."""
    total = of(traces[0], image).astype(np.float64)
    for trace in traces[1:]:
        total += of(trace, image)
    return total / len(traces)


def _expert_map(scores_hwN: np.ndarray, votes_hwN: np.ndarray, n: int, full: float) -> ExpertMap:
    scores, colour = scores_hwN[..., n], series_colour(n)
    return ExpertMap(
        image=score_map(_shrink(scores[..., None])[..., 0] / full, colour),
        share=float(votes_hwN[..., n].mean()),
        low=float(scores.min()),
        high=float(scores.max()),
    )


def _map_shape(trace: RoutingTrace, image: int) -> tuple[int, int]:
    """(width, height) in tokens, for the aspect of the maps."""
    frames, height, width = trace.grids[image]
    return width, frames * height


def _shrink(values_hwC: np.ndarray) -> np.ndarray:
    """Shrink a map to at most MAX_GRID a side by averaging areas."""
    height, width = values_hwC.shape[:2]
    factor = max(height, width) / MAX_GRID
    if factor <= 1:
        return values_hwC
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    channels = [
        Image.fromarray(values_hwC[..., c].astype(np.float32)).resize(size, Image.Resampling.BOX)
        for c in range(values_hwC.shape[2])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _points(shares_S: np.ndarray) -> str:
    """An expert's share over the steps as points of a polyline; one step is drawn as a level line."""
    width, height = _CHART
    values = np.repeat(shares_S, 2) if len(shares_S) == 1 else shares_S
    across = np.linspace(0, width, len(values))
    return " ".join(f"{x:.1f},{height * (1 - share):.1f}" for x, share in zip(across, values, strict=True))


def _picture_address(picture: Image.Image) -> str:
    """A picture of at most PICTURE_SIDE as a data: address. It is made from the pixels alone, without metadata."""
    small = picture.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    small = Image.fromarray(np.asarray(small))
    return data_address(small, kind="PNG" if max(small.size) <= 128 else "JPEG")
