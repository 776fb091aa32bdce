"""Figures as SVG that follows the page: colours are CSS variables, text stays text, no state of pyplot is touched."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from tagmoe.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib writes the first, the page (and a viewer without it) reads the second.
THEME = {
    "#22252b": "var(--ink, #22252a)",
    "#6b7079": "var(--soft, #6b7078)",
    "#e4e1da": "var(--line, #e4e1d9)",
    "#fffffe": "var(--card, #ffffff)",
    "#33658b": "var(--accent, #33658a)",
}
INK, SOFT, LINE, CARD, ACCENT = THEME
# Told apart by people who do not see red or green, on light and dark ground.
EXPERTS = ("#3a7ca5", "#d9822b", "#5b9a68", "#a05a9c", "#c0504d", "#8c8c3e", "#6a6fc1", "#4fa3a5")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tagmoe",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
_FONT = 'system-ui, -apple-system, "Segoe UI", sans-serif'


class Drawing:
    """A figure being drawn: `with Drawing(w, h) as figure: ...`, then `text` is the SVG.

    Raises MissingError without matplotlib.
    """

    text = ""

    def __init__(self, width: float, height: float) -> None:
        require("reports", "matplotlib", purpose="Drawing a figure")
        import matplotlib
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._figure_class, self._size = Figure, (width, height)

    def __enter__(self) -> Figure:
        self._style.__enter__()
        try:
            self._figure = self._figure_class(figsize=self._size, layout="constrained")
            self._figure.patch.set_alpha(0.0)
        except BaseException:
            self._style.__exit__(None, None, None)
            raise
        return self._figure

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                for axes in self._figure.axes:
                    axes.patch.set_alpha(0.0)
                buffer = io.StringIO()
                self._figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
                self.text = _themed(buffer.getvalue())
        finally:
            self._style.__exit__(kind, error, trace)


def inline(svg: str, name: str) -> str:
    """The SVG for a page: no XML header, ids unique by `name`, as wide as its column but not wider than drawn."""
    svg = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :])
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    width = round(float(found[1]) * 4 / 3) if found else 800
    svg = re.sub(
        r'(<svg[^>]*?) width="[\d.]+pt"', rf'\1 style="width:100%;max-width:{width}px;height:auto"', svg, count=1
    )
    return re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)


def expert_colour(index: int) -> str:
    """The colour of an expert in every figure; after eight they come again."""
    return EXPERTS[index % len(EXPERTS)]


def quiet(axes: Axes) -> None:
    """Take the frame away."""
    for spine in axes.spines.values():
        spine.set_visible(False)


def _themed(svg: str) -> str:
    for drawn, variable in THEME.items():
        svg = svg.replace(drawn, variable)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", lambda found: f"font: {found[1]}{_FONT}".replace('"', "'"), svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # Coordinates to a hundredth of a point; the numbers that are read stand between tags, not in attributes.
    svg = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
