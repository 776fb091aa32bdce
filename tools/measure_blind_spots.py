"""What is each metric blind to? Its values on TagWorld beside the truth: docs/results/blind_spots.md and .json.

    python tools/measure_blind_spots.py REAL [--cases 4] [--reference-cases 16] [--seed 1000] [--dry-run]

REAL is the folder of trained weights (tests/real.txt). Outputs are the anchors, ten attacks of the oracle's table
(`tagmoe.laboratory.judge_attacks`) and the packaged model's edits; the truth is the oracle's strict success. Every
metric without weights and every one with trained weights here is scored through the same code as by `tagmoe eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import support.trained_weights as trained  # noqa: E402

from tagmoe.cli.models import load_model  # noqa: E402
from tagmoe.evaluate.answers.anchors import ANCHORS, AnchorAnswers  # noqa: E402
from tagmoe.evaluate.benchmarks.benchmark import prepare  # noqa: E402
from tagmoe.evaluate.benchmarks.cases import Case, Prepared, read_prepared  # noqa: E402
from tagmoe.evaluate.benchmarks.tagworld import TagWorld  # noqa: E402
from tagmoe.evaluate.comparison.summary import group_of  # noqa: E402
from tagmoe.evaluate.judging.calibration import Observed, calibrate  # noqa: E402
from tagmoe.evaluate.metrics.learned import Learned  # noqa: E402
from tagmoe.evaluate.metrics.metric import Measure, Metric, NoValue, Pair  # noqa: E402
from tagmoe.evaluate.metrics.registry import METRICS, PAPER, make_metrics  # noqa: E402
from tagmoe.evaluate.tagworld_pipeline import edit  # noqa: E402
from tagmoe.intervals import wilson  # noqa: E402
from tagmoe.laboratory.judge_attacks import CLASSES, attacks  # noqa: E402
from tagmoe.report.numbers import percent, with_interval  # noqa: E402
from tagmoe.report.svg import ACCENT, LINE, as_svg, grid, subplots  # noqa: E402
from tagmoe.routing.heatmaps import heat  # noqa: E402
from tagmoe.world import Sample, sample  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = ROOT / "docs"
RESULT, PICTURE = DOCS / "results" / "blind_spots.json", DOCS / "images" / "blind_spots.svg"
ATTACKS = (
    *("moved by one pixel", "weak noise"),
    *("another thing recoloured", "another thing removed", "an extra object", "another light"),
    *("the wrong thing edited", "30 % of the change missing"),
    *("blend with 50 % of the target", "half a ghost of another colour"),
)
PACKAGED = "packaged model"
TRUTH = "oracle"
TRAINED = ("subject-ref:sscd", "style-ref:lite", "face-ref:dlib", "broken:brisque")
NOT_RUN = {
    **{kind.name: "no weights here" for kind in PAPER},
    "vllmq, VIEScore and other judges": "no weights here",
    "text:conse": "TagWorld has no captions",
    "ocr:rapid": "TagWorld asks for no text",
}
MORE_IS_LIKER = ("psnr_source", "ssim_source")
"""Of the values without a better end, those that grow with the likeness to the source; the others fall with it."""
DRAWN = (
    *("l1_raw", "l1_outside", "ssim_outside", "ssim_source", "changed", "near_copy"),
    *(
        "l1_target",
        "ssim_target",
        "l1_target_outside",
        "subject_sscd",
        "style_lite",
        "reference_copy",
        "broken_brisque",
    ),
)
"""The values of the picture; the table has all."""


@dataclass(frozen=True)
class Shown:
    """An output of a kind for a case, and whether it is right."""

    kind: str
    pair: Pair
    truth: float


@dataclass(frozen=True)
class Found:
    """What the values of a measure say. correlation, order: as of `calibrate`, of values turned so that more is better.
    misled: kind of output -> (wrong outputs that get at least the value of the right answer, all wrong outputs)."""

    metric: str
    measure: Measure
    n: int
    correlation: tuple[float | None, float | None, float | None]
    order: tuple[float | None, float | None, float | None]
    cases: int
    pairs: int
    misled: Mapping[str, tuple[int, int]]
    lacking: Mapping[str, int]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        names = ("value", "low", "high")
        misled = {}
        for kind, (count, n) in self.misled.items():
            share = wilson(count, n)
            misled[kind] = {**share.as_data(), "n": n}
        return {
            "metric": self.metric,
            "value": self.measure.name,
            "better": self.measure.better,
            "n": self.n,
            "cases": self.cases,
            "correlation": dict(zip(names, self.correlation, strict=True)),
            "order": {**dict(zip(names, self.order, strict=True)), "pairs": self.pairs},
            "at_least_the_right_answer": misled,
            "without": dict(self.lacking),
        }


def main() -> None:
    """Make the outputs, score them, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="folder of trained weights")
    parser.add_argument("--cases", type=int, default=4, help="cases of each task that edits a source")
    parser.add_argument("--reference-cases", type=int, default=16, help="cases of each task that has a reference")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    options = parser.parse_args()
    real = trained.open_real(options.real)
    with tempfile.TemporaryDirectory() as name:
        prepared = bench(Path(name), options.cases, options.reference_cases, options.seed)
        shown = judged(prepared, outputs(prepared, options.seed))
        metrics: list[Metric] = [*make_metrics([one for one in METRICS if one != TRUTH])]
        metrics += [learned(one, real) for one in TRAINED]
        found = []
        for metric in metrics:
            print(metric.name, file=sys.stderr, flush=True)
            found += of_metric(metric, shown)
    words = f"--cases {options.cases} --reference-cases {options.reference_cases} --seed {options.seed}"
    data = {
        "command": f"python tools/measure_blind_spots.py REAL {words}",
        "versions": {one: metadata.version(one) for one in ("torch", "numpy", "onnxruntime", "pillow", "tagmoe")},
        "cases": len(prepared.cases),
        "outputs": {kind: [sum(1 for one in shown if one.kind == kind), successes(shown, kind)] for kind in KINDS},
        "not_run": NOT_RUN,
        "values": [one.as_data() for one in found],
    }
    text = page(data, found)
    print(text)
    if not options.dry_run:
        RESULT.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        RESULT.with_suffix(".md").write_text(text, encoding="utf-8")
        PICTURE.write_text(picture([one for one in found if one.measure.name in DRAWN]), encoding="utf-8")


KINDS = (*ANCHORS, *ATTACKS, PACKAGED)


def learned(name: str, real: Path) -> Learned:
    """A metric on trained weights; of references, for all cases that have one: TagWorld does not say what they show."""
    choices = {} if name == "broken:brisque" else {"cases": "all"}
    return trained.trained_metric(name, real / trained.FOLDERS[name], choices, batch=16)


def bench(folder: Path, cases: int, reference_cases: int, seed: int) -> Prepared:
    """TagWorld with more cases of the tasks that have a reference."""
    prepare(TagWorld(max(cases, reference_cases), seed), folder)
    whole = read_prepared(folder)
    taken: dict[str, int] = {}
    kept = []
    for case in whole.cases:
        taken[case.task] = taken.get(case.task, 0) + 1
        if taken[case.task] <= (reference_cases if case.refs else cases):
            kept.append(case)
    return Prepared(whole.folder, whole.manifest, tuple(kept))


def drawn_again(case: Case) -> Sample:
    """The sample that a case was made of."""
    meta = case.meta
    return sample(meta["seed"], meta["index"], split="test", task=case.task, divide=meta["divide"])


def outputs(prepared: Prepared, seed: int) -> Iterator[tuple[str, Case, Image.Image]]:
    """(kind, case, output): the anchors, the attacks that apply, the packaged model's edits."""
    cases = prepared.cases
    for kind in ANCHORS:
        given = AnchorAnswers(kind, prepared, seed)(list(enumerate(cases)), [0] * len(cases))
        yield from ((kind, case, one) for case, one in zip(cases, given, strict=True) if isinstance(one, Image.Image))
    samples = [drawn_again(case) for case in cases]
    random = np.random.default_rng(seed)
    for case, own in zip(cases, samples, strict=True):
        for attack in attacks(own, random, kinds=ATTACKS):
            yield attack.kind, case, Image.fromarray(attack.image)
    for case, image in zip(cases, edit(load_model(None, threads=1), samples, seed=seed).images, strict=True):
        yield PACKAGED, case, Image.fromarray(image)


def judged(prepared: Prepared, made: Iterator[tuple[str, Case, Image.Image]]) -> list[Shown]:
    """The outputs with the oracle's strict success."""
    (oracle,) = make_metrics([TRUTH])
    found = []
    for kind, case, output in made:
        pair = Pair(case, output, prepared)
        truth = oracle(pair)["success"]
        assert not isinstance(truth, NoValue)
        found.append(Shown(kind, pair, truth))
    return found


def successes(shown: Sequence[Shown], kind: str) -> int:
    """Outputs of a kind that are right."""
    return sum(one.truth == 1 for one in shown if one.kind == kind)


def of_metric(metric: Metric, shown: Sequence[Shown]) -> list[Found]:
    """What each value of a metric says."""
    given = metric.many([one.pair for one in shown]) if isinstance(metric, Learned) else [metric(o.pair) for o in shown]
    return [
        of_measure(metric.name, measure, shown, [own[measure.name] for own in given]) for measure in metric.measures
    ]


def of_measure(metric: str, measure: Measure, shown: Sequence[Shown], values: Sequence[Any]) -> Found:
    """Correlation and order with the truth, and which wrong outputs are valued as the right answer or more."""
    kept = [(one, turned(measure, own)) for one, own in zip(shown, values, strict=True) if not isinstance(own, NoValue)]
    lacking: dict[str, int] = {}
    for own in values:
        if isinstance(own, NoValue):
            lacking[own.reason] = lacking.get(own.reason, 0) + 1
    observed = [
        Observed(one.kind, one.pair.case.key, group_of(one.pair.case), one.pair.case.task, own, one.truth)
        for one, own in kept
    ]
    if not observed:
        nothing = (None, None, None)
        return Found(metric, measure, 0, nothing, nothing, 0, 0, {}, lacking)
    found = calibrate(observed, 0.0)
    right = {one.pair.case.key: own for one, own in kept if one.kind == "target"}
    misled: dict[str, tuple[int, int]] = {}
    for kind in KINDS:
        wrong = [
            own >= right[one.pair.case.key]
            for one, own in kept
            if one.kind == kind and one.truth == 0 and one.pair.case.key in right
        ]
        if wrong:
            misled[kind] = (sum(wrong), len(wrong))
    correlation, order = found.correlation, found.order
    return Found(
        metric, measure, len(kept), (correlation.value, correlation.low, correlation.high),
        (order.value, order.low, order.high), order.n, found.pairs, misled, lacking,
    )  # fmt: skip


def turned(measure: Measure, value: float) -> float:
    """The value so that more is better; where neither end is, so that more is more like the source."""
    falls = measure.better == "lower" or (measure.better == "neither" and measure.name not in MORE_IS_LIKER)
    return -value if falls else value


@as_svg
def picture(found: Sequence[Found]) -> Figure:
    """Left the correlation with the truth, right which wrong outputs get at least the value of the right answer."""
    kinds = [kind for kind in KINDS if any(kind in one.misled for one in found)]
    figure, (left, right) = subplots(11.5, 1.9 + 0.32 * len(found), 2, width_ratios=(1, 3.2))
    for place, one in enumerate(found):
        value, low, high = one.correlation
        if value is None:
            continue
        if low is not None and high is not None:
            left.plot((low, high), (place + 0.5, place + 0.5), color=LINE, lw=4, solid_capstyle="round")
        left.plot(value, place + 0.5, "o", color=ACCENT, ms=5)
    left.set_ylim(len(found), 0)
    left.set_xlim(-1, 1)
    left.set_yticks([place + 0.5 for place in range(len(found))], [label(one) for one in found])
    grid(left, "x")
    left.axvline(0, color=LINE, lw=1.5)
    left.set_title("correlation with success", fontsize=9)
    shares = np.array([[share(one.misled.get(kind)) for kind in kinds] for one in found])
    heat(right, shares, [""] * len(found), kinds, low=0, high=1, scale=100, colours="Oranges")
    right.tick_params(axis="x", labelrotation=40)
    for text in right.get_xticklabels():
        text.set_ha("left")
    right.set_title("wrong outputs valued at least as the right answer, %", fontsize=9, y=-0.12)
    return figure


def label(one: Found) -> str:
    """The name of a value, and which way it was turned."""
    return f"{one.measure.name} (likeness to source)" if one.measure.better == "neither" else one.measure.name


def share(counts: tuple[int, int] | None) -> float:
    """A share; NaN where there is nothing."""
    return float("nan") if counts is None or not counts[1] else counts[0] / counts[1]


def page(data: Mapping[str, Any], found: Sequence[Found]) -> str:
    """The Markdown page."""
    lines = [
        "# What each metric is blind to",
        "",
        "<!-- written by tools/measure_blind_spots.py -->",
        f"`{data['command']}`",
        "",
        "A metric is worth what it says of outputs whose truth is known. Here the truth is the strict success of "
        f"TagWorld's oracle: the edit is done, whole, and the rest is as it was. {data['cases']} cases; outputs: the "
        "anchors, ten attacks of [the oracle's table](judge.md) and the packaged model's edits. Intervals: 95 %, by a "
        "bootstrap over source pictures. The pictures are drawn, 64x64: on photographs trained networks see more.",
        "",
        "![Correlation with success, and the wrong outputs that each metric takes for right]"
        "(../images/blind_spots.svg)",
        "",
        *reading(found),
        "",
        "## Correlation and order",
        "",
        "*Correlation*: Pearson's, of the value with success, over all outputs. *Right order*: of two outputs of one "
        "case, one right and one wrong, how often the right one has the better value (a tie and chance are a half). "
        "Values are turned so that more is better; where neither end is, so that more is more like the source.",
        "",
        "| metric | value | outputs | correlation | right order, pairs |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| `{one.metric}` | {label(one)} | {one.n} | {with_interval(*one.correlation)} | "
            f"{with_interval(*one.order)}{f', {one.pairs}' if one.pairs else ''} |"
        )
    kinds = [kind for kind in KINDS if any(kind in one.misled for one in found)]
    lines += [
        "",
        "## Wrong outputs that are valued as the right answer, or more",
        "",
        "Per cent of the wrong outputs of a kind; n in brackets. 100 is blind.",
        "",
        f"| value | {' | '.join(kinds)} |",
        f"|---|{'---|' * len(kinds)}",
        *(
            f"| {label(one)} | {' | '.join(cell(one.misled.get(kind)) for kind in kinds)} |"
            for one in found
            if one.misled
        ),
        "",
        "## Outputs",
        "",
        "| output | a person calls it | n | right by the oracle |",
        "|---|---|---|---|",
        *(f"| {kind} | {CLASSES.get(kind, '-')} | {n} | {right} |" for kind, (n, right) in data["outputs"].items()),
        "",
        "## Not run",
        "",
        *(f"- {name}: {why}." for name, why in data["not_run"].items()),
        *(f"- `{one.metric}`, {one.measure.name}: {why_none(one)}." for one in found if not one.n),
    ]
    return "\n".join(lines) + "\n"


def why_none(one: Found) -> str:
    """Why a value was never there, by the most frequent reason."""
    return max(one.lacking, key=lambda reason: one.lacking[reason], default="it gave nothing")


def cell(counts: tuple[int, int] | None) -> str:
    """A share with its n."""
    return "-" if counts is None else f"{percent(share(counts))} ({counts[1]})"


def reading(found: Sequence[Found]) -> list[str]:
    """What the figures say, one line a finding, made of the figures."""
    by_name = {one.measure.name: one for one in found}
    lines = []
    for name, words in (
        ("l1_raw", "the difference to the source outside the mask"),
        ("ssim_source", "the likeness to the source"),
        ("l1_target", "the difference to the right answer"),
        ("subject_sscd", "the likeness to the reference"),
    ):
        one = by_name.get(name)
        if one is None or one.correlation[0] is None:
            continue
        copied = one.misled.get("copy")
        of_copies = (
            f"; {percent(share(copied))} of {copied[1]} copies get at least the right answer's value" if copied else ""
        )
        lines.append(f"- `{name}`, {words}: correlation {with_interval(*one.correlation)}{of_copies}.")
    nearest = by_name.get("l1_target")
    if nearest is not None and nearest.order[0] is not None:
        lines.append(
            "- A value that compares with the right answer itself is not deceived about it. It errs on right outputs "
            f"that lie a pixel aside or have a little noise: right order {with_interval(*nearest.order)}."
        )
    lines.append("- `near_copy` and `reference_copy` are there to see copies, and see nothing else.")
    same = [one for one in found if one.n and (one.correlation[0] is None or not isfinite(one.correlation[0]))]
    lines += [f"- `{one.measure.name}` has one value for all {one.n} outputs: here it sees nothing." for one in same]
    return lines


if __name__ == "__main__":
    main()
