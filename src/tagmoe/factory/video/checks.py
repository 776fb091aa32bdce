"""The filters of pairs of frames: each by its name and its limit, and what a pair that passes all of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, get_args

from tagmoe.data.check.limits import limits_of
from tagmoe.factory.video.looks import blur, deviation
from tagmoe.factory.video.motion import measure
from tagmoe.factory.video.pairs import Pair

Kind = Literal["view", "pose", "action"]
"""view: the camera moved. pose: the subject moved in its place. action: it moved away from its place."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Side = Literal["below", "above"]
VERSION = 1
"""Raise this when a change of the code gives other figures, or another kind, of the same frames."""
CUTS = "cuts"
"""The one filter of frames, which comes before there are pairs."""
VIEW = 0.03
"""Least way of the camera, as a share of the diagonal, that gives another view."""
DEPTH = 0.5
"""Share of the matches beside the camera's homography from which what changed is depth, not things that moved."""
WIDE = 0.15
"""Share of the picture that changes at least where near and far move apart; one thing that moves changes less."""
LEAST_CHANGED = 0.004
"""Share of the picture from which something besides the camera has moved."""
ACTION = 0.5
"""Way of the subject, in sides of a square as large as what changed, from which it has left its place."""


class Filter(NamedTuple):
    """A filter of pairs. A pair is dropped whose figure lies on this side of the limit. kinds: that it is for."""

    figure: str
    side: Side
    limit: float
    about: str
    kinds: tuple[Kind, ...] = KINDS


_SUBJECT: tuple[Kind, ...] = ("pose", "action")
FILTERS: dict[str, Filter] = {
    "blank": Filter("deviation", "below", 8.0, "a frame is nearly of one colour (deviation of its grey levels)"),
    "blur": Filter("blur", "above", 0.5, "a frame is blurred (0 sharp, 1 blurred)"),
    "scene": Filter(
        "aligned", "below", 0.4, "the frames show other scenes (share of the structure that is found again)"
    ),
    "overlap": Filter("overlap", "below", 0.5, "the frames share too little of the view"),
    "still": Filter("moved", "below", 0.007, "nothing moved (share of the diagonal)"),
    "chaos": Filter("moved", "above", 0.3, "something moved too far (share of the diagonal)"),
    "steady": Filter(
        "camera", "above", 0.01, "the subject moved, and so did the camera (share of the diagonal)", _SUBJECT
    ),
    "moving": Filter(
        "others", "above", 0.02, "the camera moved, and so did other things (share of the picture)", ("view",)
    ),
    "size": Filter("changed", "above", 0.4, "the moving thing is too large (share of the picture)", _SUBJECT),
    "unexplained": Filter("unexplained", "above", 0.1, "no motion explains what changed (share of the picture)"),
    "same": Filter("same", "below", 0.55, "the moving thing is another one (share of common colours)", _SUBJECT),
    "repeat": Filter("repeat", "below", 12.0, "a pair like it was kept before (grey levels)"),
}
"""In the order in which they are tried; the first that finds something is the reason. How well each works is measured
in docs/video.md."""
NAMES = (CUTS, *FILTERS)


@dataclass(frozen=True)
class Limits:
    """Which filters are applied, and with which limits. limits: by name; a filter that is not named is off."""

    limits: Mapping[str, float | None]

    @classmethod
    def of(cls, settings: Mapping[str, str] | None = None) -> Limits:
        """The defaults with these settings: a filter's limit, `on` or `off`. Raises UsageError for any other."""
        return cls(limits_of(settings, {CUTS: None, **{name: one.limit for name, one in FILTERS.items()}}))

    @property
    def cuts(self) -> bool:
        """Whether shots are told apart at cuts."""
        return CUTS in self.limits

    def broken(self, figures: Mapping[str, float], kind: Kind) -> list[str]:
        """The filters that drop a pair, in their order."""
        found = []
        for name, one in FILTERS.items():
            limit = self.limits.get(name)
            if limit is None or kind not in one.kinds or one.figure not in figures:
                continue
            value = figures[one.figure]
            if value < limit if one.side == "below" else value > limit:
                found.append(name)
        return found


def figures_of(pair: Pair) -> dict[str, float]:
    """Everything that is measured of a pair by itself; `looks.Known` gives the figure "repeat"."""
    stills = (pair.first, pair.second)
    found = {
        "gap": pair.second.time - pair.first.time,
        "deviation": min(deviation(still.pixels) for still in stills),
        "blur": max(blur(still.pixels) for still in stills),
        **{name: float(value) for name, value in asdict(measure(pair.first.pixels, pair.second.pixels)).items()},
    }
    found["moved"] = _moved(found)
    is_depth = found["depth"] >= DEPTH and found["changed"] >= WIDE
    found["others"] = 0.0 if is_depth else found["changed"]
    return {name: round(value, 4) for name, value in found.items()}


def kind_of(figures: Mapping[str, float]) -> Kind:
    """What moved. It holds for pairs that pass the filters: of the others no kind is true."""
    if figures["camera"] >= VIEW:
        return "view"
    return "action" if figures["travel"] >= ACTION else "pose"


def _moved(figures: Mapping[str, float]) -> float:
    if figures["camera"] >= VIEW:
        return figures["camera"]
    return figures["subject"] if figures["changed"] >= LEAST_CHANGED else 0.0
