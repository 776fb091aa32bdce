"""The page of a run, index.html in its folder: curves, expert load, routing by tag, scores, pictures, alarms.

It needs no server and fetches nothing but the pictures beside it. What it shows is kept in curves of limited length
(`tagmoe.report.curves`), so writing it costs the same at step 10 and at step 100,000. `RunPage.read` makes the same
page from the files of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template

from tagmoe.errors import TrainingError, UsageError
from tagmoe.files.atomic import write_whole
from tagmoe.files.yaml_text import read_yaml
from tagmoe.pipeline.model_folder import RECORD
from tagmoe.report.colours import series_colour
from tagmoe.report.curves import Curve, Line, drawn_lines, drawn_shares
from tagmoe.report.numbers import named, percent, seconds, short_count
from tagmoe.report.pages import Tile, page_environment
from tagmoe.sentences import counted, reason_of
from tagmoe.tags import TAG_NAMES
from tagmoe.train.routing_watch import TIME_BINS

PAGE, METRICS, ROUTING, ALARMS, ABOUT = "index.html", "metrics.jsonl", "routing.jsonl", "alarms.jsonl", "about.json"
VALIDATION = "validation"
MOST_PICTURES = 6
MOST_ALARMS = 20
NOT_DRAWN = frozenset({"stage", "step", "seconds", "samples", "tokens", "skipped"})
TITLES = {
    "flow": "L_flow",
    "balance": "L_lbl (balance)",
    "alignment": "L_align",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
    "samples/s": "samples a second",
    "tokens/s": "tokens a second",
    "utilisation": "FLOP utilisation",
    "tags/effective_rank": "effective rank of W_tag",
    "tags/mean_cosine": "mean cosine of W_tag",
    "validation/held_out_flow": "L_flow on held-out rows",
}
SPEED = ("samples/s", "tokens/s", "utilisation")
FROM_ZERO = frozenset({*SPEED, "learning_rate", "validation/success"})
AFTER_LOSSES = ("grad_norm", "learning_rate", *SPEED)
BY_TIME = "validation/held_out_flow/"


@dataclass
class StageView:
    """What the page shows of one stage."""

    name: str
    steps: int
    step: int = 0
    took: float = 0.0
    skipped: int = 0
    curves: dict[str, Curve] = field(default_factory=dict)
    load: list[list[Curve]] = field(default_factory=list)
    explained: dict[str, Curve] = field(default_factory=lambda: {"time": Curve(), "tags": Curve()})
    routing: list[dict[str, Any]] = field(default_factory=list)
    """The first record and the last."""
    held_out: list[dict[str, float]] = field(default_factory=list)
    """By time, at the first validation and at the last."""
    alarms: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a line of metrics.jsonl."""
        step = int(record["step"])
        self.step = max(self.step, step)
        self.skipped += bool(record.get("skipped"))
        if took := record.get("seconds"):
            self.took += took
            for name in ("samples", "tokens"):
                if name in record:
                    self._point(f"{name}/s", step, record[name] / took)
        by_time = {name.removeprefix(BY_TIME): value for name, value in record.items() if name.startswith(BY_TIME)}
        if by_time:
            self.held_out = [*self.held_out[:1], by_time]
        for name, value in record.items():
            if name not in NOT_DRAWN and not name.startswith(("load/", BY_TIME)):
                self._point(name, step, value)

    def add_routing(self, record: dict[str, Any]) -> None:
        """Take a line of routing.jsonl."""
        self.routing = [*self.routing[:1], record]
        for layer, shares in enumerate(record.get("load", ())):
            if layer == len(self.load):
                self.load.append([Curve() for _ in shares])
            for curve, share in zip(self.load[layer], shares, strict=True):
                curve.add(record["step"], share)
        for name, curve in self.explained.items():
            known = [share for share in record.get("explained", {}).get(name, ()) if share is not None]
            if known:
                curve.add(record["step"], sum(known) / len(known))

    def _point(self, name: str, step: int, value: float) -> None:
        self.curves.setdefault(name, Curve()).add(step, value)

    @property
    def left(self) -> float | None:
        """Seconds until the last step, by the speed so far."""
        return (self.steps - self.step) * self.took / self.step if self.step and self.took else None


class RunPage:
    """Collects what a run logs, and writes its page. settings: of the run, as its folder records them."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = settings
        self._views: dict[str, StageView] = {}

    @classmethod
    def read(cls, folder: Path) -> RunPage:
        """The page of a run, from its files. Raises UsageError for a folder that holds none."""
        try:
            settings = read_yaml((folder / RECORD).read_text(encoding="utf-8"), str(folder / RECORD))
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"There is no training run in {str(folder)!r}; give the output_dir of one.") from None
        page = cls(folder, settings)
        page.read_files()
        return page

    def read_files(self) -> None:
        """Take all that the files of the run hold."""
        for record in lines(self._folder / METRICS):
            self.view(record["stage"]).add(record)
        for record in lines(self._folder / ROUTING):
            self.view(record["stage"]).add_routing(record)
        for record in lines(self._folder / ALARMS):
            self.view(record["stage"]).alarms.append(record)

    def view(self, stage: str) -> StageView:
        """That of a stage."""
        if stage not in self._views:
            block = self._settings.get("autoencoder" if stage == "decoder" else stage, {})
            steps = block.get("decoder_steps" if stage == "decoder" else "steps", 0)
            self._views[stage] = StageView(stage, steps)
        return self._views[stage]

    def write(self, state: str = "", *, refresh: float | None = None) -> Path:
        """Write the page; returns its path. state: how the run stands, in words. refresh: seconds until a browser reads
        it again."""
        path = self._folder / PAGE
        write_whole(path, self.html(state, refresh=refresh))
        return path

    def html(self, state: str = "", *, refresh: float | None = None) -> str:
        """The page as text."""
        views = [*self._views.values()][::-1]
        state = state or self._stands()
        return _template().render(
            name=self._folder.resolve().name,
            state=state,
            refresh=None if refresh is None else max(10, round(refresh)),
            facts=self._facts(),
            tiles=_tiles(views[0], state) if views else [],
            stages=[_shown(view) for view in views],
            alarms=[one for view in views for one in reversed(view.alarms)][:MOST_ALARMS],
            alarm_count=sum(len(view.alarms) for view in views),
            pictures=self._pictures(),
        )

    def _stands(self) -> str:
        done = any((self._folder / kind).is_dir() for kind in ("model", "lora"))
        return "finished" if done else "not finished"

    def _facts(self) -> list[tuple[str, str]]:
        settings, about = self._settings, about_of(self._folder)
        data = settings.get("data")
        stage = settings.get("unified", {})
        return [
            ("data", f"store {Path(str(data['store'])).name}, version {data.get('version')}" if data else "TagWorld"),
            (
                "starts from",
                str(settings.get("start") or settings.get("mixture") or settings.get("dense") or "scratch"),
            ),
            ("trains", str(settings.get("parameters", "all"))),
            ("a step", f"{stage.get('accumulate', 1)} x {stage.get('batch', '?')} samples"),
            ("seed", str(settings.get("seed", 0))),
            ("precision", str(about.get("precision", settings.get("precision", "")))),
            ("versions", named(about.get("versions", {}))),
            ("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")),
        ]

    def _pictures(self) -> list[tuple[int, str]]:
        """(step, address) of contact sheets: the newest first, then some of the others."""
        found = sorted((self._folder / VALIDATION).glob("[0-9]*.png"))
        if len(found) > MOST_PICTURES:
            last = len(found) - 1
            found = [found[round(i * last / (MOST_PICTURES - 1))] for i in range(MOST_PICTURES)]
        return [(int(path.stem), f"{VALIDATION}/{path.name}") for path in reversed(found) if path.stem.isdigit()]


def about_of(folder: Path) -> dict[str, Any]:
    """What a run notes about itself beside its settings: precision and versions; {} for a run from before it did."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of JSON lines, line by line; none without the file. A half-written last line is left out.

    Raises TrainingError for any other line that is no record.
    """
    try:
        with path.open(encoding="utf-8") as handle:
            for line in handle:
                if not line.endswith("}\n"):
                    continue
                record = json.loads(line)
                yield {"stage": record["stage"], "step": record["step"], **record}
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{str(path)!r} cannot be read ({reason_of(error)}); restore the file.") from error


@cache
def _template() -> Template:
    """Compiled once: compiling takes longer than all the rest."""
    return page_environment("tagmoe.train").get_template("run_page.html.j2")


def _tiles(view: StageView, state: str) -> list[Tile]:
    tiles = [Tile(f"{view.step:,}", f"of {counted(view.steps, 'step')}", f"stage {view.name}")]
    if view.step < view.steps and view.left is not None:
        tiles.append(Tile(seconds(view.left), "left", f"{seconds(view.took)} so far"))
    elif view.took:
        tiles.append(Tile(seconds(view.took), "in training steps"))
    for name, label in (("samples/s", "samples a second"), ("tokens/s", "tokens a second")):
        if (curve := view.curves.get(name)) and curve.last is not None:
            tiles.append(Tile(_number(curve.last), label))
    if (curve := view.curves.get("utilisation")) and curve.last is not None:
        tiles.append(Tile(percent(curve.last), "FLOP utilisation"))
    if (curve := view.curves.get("validation/success")) and curve.last is not None:
        tiles.append(Tile(percent(curve.last), "success in validation"))
    tiles.append(Tile(str(len(view.alarms)), "alarms", tone="no" if view.alarms else "ok"))
    return tiles


def _shown(view: StageView) -> dict[str, Any]:
    validation = {name: curve for name, curve in view.curves.items() if name.startswith("validation/")}
    losses = [
        name for name in view.curves
        if name not in validation and name not in AFTER_LOSSES and not name.startswith("tags/")
    ]  # fmt: skip
    order = [*losses, *(name for name in AFTER_LOSSES if name in view.curves)]
    order += [name for name in view.curves if name.startswith("tags/")]
    last = view.routing[-1] if view.routing else {}
    return {
        "name": view.name,
        "step": view.step,
        "steps": view.steps,
        "skipped": view.skipped,
        "curves": [_card(name, view.curves[name]) for name in order],
        "validation": [_card(name, curve) for name, curve in validation.items()],
        "by_time": _by_time(view),
        "load": _loads(view, last),
        "experts": len(view.load[0]) if view.load else 0,
        "explained": _explained(view),
        "routing": last,
        "tags": _by_tag(last),
    }


def _card(name: str, curve: Curve) -> dict[str, Any]:
    title = TITLES.get(name, name.removeprefix("validation/"))
    is_share = name in ("validation/success", "validation/unchanged", "utilisation")
    write = (lambda value: percent(value)) if is_share else _number
    return {
        "title": title,
        "last": "" if curve.last is None else write(curve.last),
        "drawn": drawn_lines(
            [Line(curve)], write, zero=name in FROM_ZERO, log=name not in FROM_ZERO and "/" not in name
        ),
    }


def _by_time(view: StageView) -> list[dict[str, Any]]:
    """L_flow by timestep, first and last: on held-out rows, and while training."""
    found = []
    if view.held_out:
        ends = [[(_middle(name), value) for name, value in one.items()] for one in view.held_out]
        found.append(_time_card("on held-out rows", ends))
    ends = [
        [((i + 0.5) / TIME_BINS, mean) for i, (_, mean) in enumerate(one.get("flow_by_time", ())) if mean is not None]
        for one in view.routing
    ]
    if any(ends):
        found.append(_time_card("while training", ends))
    return found


def _middle(name: str) -> float:
    """Of a bin that is named by its ends, "0.1-0.2"."""
    low, _, high = name.partition("-")
    return (float(low) + float(high)) / 2


def _time_card(title: str, ends: list[list[tuple[float, float]]]) -> dict[str, Any]:
    lines = []
    for points, colour in zip(ends, ("var(--soft)", "var(--accent)")[-len(ends) :], strict=True):
        curve = Curve()
        for t, value in points:
            curve.add(t, value)
        lines.append(Line(curve, colour=colour))
    return {
        "title": f"L_flow by time, {title}",
        "last": "",
        "drawn": drawn_lines(lines, _number, place="{:.2g}".format),
    }


def _loads(view: StageView, last: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = last.get("layers", ())
    cards = []
    for layer, curves in enumerate(view.load):
        shares = [curve.bins[-1].mean for curve in curves if curve.bins]
        cards.append(
            {
                "title": _short_name(names[layer]) if layer < len(names) else f"mixture {layer}",
                "last": f"{percent(min(shares))} to {percent(max(shares))}",
                "drawn": drawn_shares(curves, [series_colour(expert) for expert in range(len(curves))]),
            }
        )
    return cards


def _short_name(mixture: str) -> str:
    """ "block 57" of transformer_blocks.57.img_mlp."""
    return f"block {mixture.split('.')[1]}" if mixture.count(".") == 2 else mixture


def _explained(view: StageView) -> dict[str, Any] | None:
    if not any(curve.bins for curve in view.explained.values()):
        return None
    colours = {"time": series_colour(5), "tags": series_colour(2)}
    lines = [Line(curve, name, colours[name], band=False) for name, curve in view.explained.items() if curve.bins]
    said = ", ".join(f"{line.name} {percent(line.curve.last)}" for line in lines)
    return {
        "title": "explained by",
        "last": said,
        "drawn": drawn_lines(lines, lambda share: percent(share), zero=min(_lows(lines)) >= 0),
        "names": [(line.name, line.colour) for line in lines],
    }


def _lows(lines: list[Line]) -> list[float]:
    return [one.low for line in lines for one in line.curve.bins]


def _by_tag(last: Mapping[str, Any]) -> list[tuple[str, int, list[list[float]]]]:
    """(tag, samples, load by layer) of the tags that were seen, in the vocabulary's order."""
    found = last.get("by_tag", {})
    return [(tag, found[tag]["samples"], found[tag]["load"]) for tag in TAG_NAMES if tag in found]


def _number(value: float) -> str:
    """With three digits, and no more zeros than a narrow axis has room for."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value)
    if 1e5 <= size < 1e9:
        return short_count(round(value))
    if size >= 1e9 or size < 1e-3:
        text = f"{value:.2e}"
        mantissa, _, power = text.partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"
