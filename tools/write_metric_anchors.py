"""Score the anchors on real photographs by every metric that has trained weights here, or needs none.

    python tools/write_metric_anchors.py REAL [--dry-run]

REAL is the folder of trained weights (tests/real.txt). Writes docs/results/metrics.json and the table of
docs/metrics.md. What a metric says of a right answer means something only beside what it says of a copy, of another
case's answer and of black.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from photograph_cases import (
    PHOTOGRAPHS,
    SIDE,
    STYLES,
    Shown,
    controlled,
    faces,
    kinds,
    pasted,
    replaced,
    styled,
    written,
)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import support.trained_weights as trained  # noqa: E402

from tagmoe.evaluate.metrics.learned import Learned  # noqa: E402
from tagmoe.evaluate.metrics.metric import Measure, Metric, NoValue, Value  # noqa: E402
from tagmoe.evaluate.metrics.onnx_network import open_session  # noqa: E402
from tagmoe.evaluate.metrics.registry import make_metrics  # noqa: E402
from tagmoe.intervals import Bootstrap, wilson  # noqa: E402
from tagmoe.report.numbers import with_interval  # noqa: E402

RESULT = ROOT / "docs" / "results" / "metrics.json"
PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- anchors: written by tools/write_metric_anchors.py -->", "<!-- end of anchors -->"
COLUMNS = ("target", "copy", "shuffled", "black")
PERSON = "obama"
IN_TABLE = (
    *("face_dlib", "style_lite", "subject_sscd", "text_conse", "ocr_rapid", "broken_brisque", "reference_copy"),
    *("l1_raw", "ssim_source", "l1_target", "ssim_target", "shift", "changed", "near_copy"),
    *("l1_canny", "l1_colorize", "ssim"),
)
"""The values of the table in docs/metrics.md; the others are in the result."""
BESIDE = {
    "face_dlib": ("crop of the target",),
    "style_lite": ("another style",),
    "subject_sscd": ("crop of the reference", "blurred reference", "another photograph"),
    "text_conse": ("crop of the target",),
    "broken_brisque": ("target with noise", "blurred target"),
    "reference_copy": ("the reference again", "crop of the reference", "another photograph"),
    "l1_target": ("target moved by 8 pixels", "blurred target"),
    "ssim_target": ("target moved by 8 pixels", "blurred target"),
    "shift": ("target moved by 8 pixels",),
}
"""Further outputs that the table shows beside the anchors."""
Row = dict[str, Any]


def main() -> None:
    """Score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="folder of trained weights")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    options = parser.parse_args()
    real = trained.open_real(options.real)
    with tempfile.TemporaryDirectory() as name:
        rows, bases = measured(real, Path(name))
        nearest = nearest_style(real)
    found = {
        "command": "python tools/write_metric_anchors.py REAL",
        "photographs": [*PHOTOGRAPHS],
        "longer_side": SIDE,
        "versions": {one: metadata.version(one) for one in ("torch", "numpy", "onnxruntime", "pillow", "tagmoe")},
        "bases": bases,
        "nearest_style": nearest,
        "rows": rows,
    }
    if not options.dry_run:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = table(rows)
    print(text)
    if not options.dry_run:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def measured(real: Path, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """A row for each value, kind of output and metric; and what the values of learned metrics rest on."""

    def learned(name: str) -> Learned:
        if name == "text:conse":
            made = folder / "conse"
            made.mkdir()
            return trained.trained_metric(name, trained.conse_folder(real, made))
        return trained.trained_metric(name, real / trained.FOLDERS[name])

    people = trained.photographs_of_people(real)
    network = open_session(real / trained.STYLES, "cpu")
    plan: list[tuple[list[Shown], list[Metric]]] = [
        (
            pasted(folder / "pasted"),
            [
                *(learned(name) for name in ("subject-ref:sscd", "broken:brisque")),
                *make_metrics(["reference-copy", "source", "target", "alignment", "copying"]),
            ],
        ),
        (faces(folder / "faces", people, PERSON), [learned("face-ref:dlib")]),
        (styled(folder / "styled", network), [learned("style-ref:lite")]),
        (replaced(folder / "replaced"), [learned("text:conse")]),
        (written(folder / "written"), [learned("ocr:rapid")]),
        (controlled(folder / "controlled"), make_metrics(["control"])),
    ]
    rows: list[Row] = []
    bases = {}
    for shown, metrics in plan:
        for metric in metrics:
            print(metric.name, file=sys.stderr, flush=True)
            rows += of_metric(metric, shown)
            if isinstance(metric, Learned):
                bases[metric.name] = {**metric.basis, "versions": metric.versions()}
    return rows, bases


def of_metric(metric: Metric, shown: Sequence[Shown]) -> list[Row]:
    """The rows of one metric."""
    given = metric.many([one.pair for one in shown]) if isinstance(metric, Learned) else [metric(o.pair) for o in shown]
    rows = []
    for measure in metric.measures:
        for kind in kinds(shown):
            values = [(one.group, own[measure.name]) for one, own in zip(shown, given, strict=True) if one.kind == kind]
            row = summary(metric.name, measure, kind, values)
            if row["n"] or row["without"]:
                rows.append(row)
    return rows


def summary(metric: str, measure: Measure, kind: str, values: Sequence[tuple[str, Value]]) -> Row:
    """The mean over photographs with its interval, the least and the most, and what has no value by its reason."""
    groups: dict[str, list[float]] = {}
    without: dict[str, int] = {}
    for group, value in values:
        if isinstance(value, NoValue):
            if value.status != "not_applicable":
                without[value.reason] = without.get(value.reason, 0) + 1
        else:
            groups.setdefault(group, []).append(float(value))
    numbers = [one for own in groups.values() for one in own]
    mean = Bootstrap(2000, 0).mean(np.array([np.mean(own) for own in groups.values()]))
    plain = {name: None if np.isnan(own) else float(own) for name, own in mean.as_data().items()}
    return {
        "metric": metric,
        "value": measure.name,
        "better": measure.better,
        "kind": kind,
        "n": len(numbers),
        "photographs": len(groups),
        "mean": plain["value"],
        "low": plain["low"],
        "high": plain["high"],
        "least": min(numbers, default=None),
        "most": max(numbers, default=None),
        "without": without,
    }


def nearest_style(real: Path) -> dict[str, Any]:
    """How often the nearest picture of another photograph has the same style."""
    with tempfile.TemporaryDirectory() as name:
        shown = styled(Path(name) / "styled", open_session(real / trained.STYLES, "cpu"))
        targets = [one for one in shown if one.kind == "target"]
        metric = trained.trained_metric("style-ref:lite", real / trained.FOLDERS["style-ref:lite"])
        pictures = [metric.prepare(one.pair.output) for one in targets]  # type: ignore[attr-defined]
        vectors = np.stack(metric.encode("picture", pictures))
    near = vectors @ vectors.T
    contents = np.array([one.group for one in targets])
    styles = [one.pair.case.id.rsplit("-", 1)[1] for one in targets]
    near[contents[:, None] == contents[None, :]] = -2
    right = sum(styles[other] == style for style, other in zip(styles, near.argmax(axis=1), strict=True))
    share = wilson(right, len(targets))
    return {**share.as_data(), "n": share.n, "chance": 1 / len(STYLES)}


def table(rows: Sequence[Row]) -> str:
    """The table of the page, in Markdown."""
    by_value: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_value.setdefault(row["value"], {})[row["kind"]] = row
    lines = [
        f"| metric, value (better) | {' | '.join(COLUMNS)} | others |",
        f"|---|{'---|' * (len(COLUMNS) + 1)}",
    ]
    for value in IN_TABLE:
        found = by_value[value]
        first = next(iter(found.values()))
        others = "; ".join(f"{kind} {cell(row)}" for kind, row in found.items() if kind in BESIDE.get(value, ()))
        name = f"`{first['metric']}`, `{value}` ({first['better']})"
        lines.append(f"| {name} | {' | '.join(cell(found.get(kind)) for kind in COLUMNS)} | {others or '-'} |")
    return "\n".join(lines) + "\n"


def cell(row: Mapping[str, Any] | None) -> str:
    """The mean with its interval, and how many have none."""
    if row is None:
        return "-"
    lacking = sum(row["without"].values())
    number = with_interval(row["mean"], row["low"], row["high"]).replace("-0.00 ", "0.00 ") if row["n"] else "none"
    return number + (f" ({lacking} of {row['n'] + lacking} undefined)" if lacking and row["n"] else "")


if __name__ == "__main__":
    main()
