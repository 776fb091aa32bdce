"""Figures as SVG that follows the page: colours are CSS variables, text stays text, no state of pyplot is touched."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from tagmoe.extras import require
from tagmoe.report.colours import DARK, LIGHT
from tagmoe.report.printable import one_line, printable
from tagmoe.sentences import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
# Placeholder colour, as matplotlib draws it -> CSS variable, as the page defines it. Each differs from its colour of
# the palette by a hair, so that no other colour is taken for a placeholder.
_PLACEHOLDERS = {"ink": "#22252b", "soft": "#6b7079", "line": "#e4e1da", "card": "#fffffe", "accent": "#33658b"}
INK, SOFT, LINE, CARD, ACCENT = _PLACEHOLDERS.values()
# A figure in a file has no page around it to say what is dark.
_DARK_STYLE = (
    "@media (prefers-color-scheme: dark) { svg { "
    + " ".join(f"--{name}: {DARK[name]};" for name in _PLACEHOLDERS)
    + " } }"
)
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
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
_FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


@contextmanager
def styled() -> Iterator[None]:
    """Everything drawn inside has the style of the page. Raises MissingError without matplotlib."""
    require("reports", "matplotlib", purpose="Drawing a figure")
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def as_svg(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Make a function that draws a figure, which is then styled and given as SVG. Raises as `styled` does."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        with styled():
            return svg_text(draw(*args, **kwargs))

    return drawn


def subplots(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches, and its axes row by row. options: as of `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def svg_text(figure: Figure) -> str:
    """A figure that was drawn in `styled`, as SVG; also to be called in it."""
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text in the file, and a browser has the letters that the font here lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(printable(buffer.getvalue()))


def short(name: str, limit: int = 30) -> str:
    """A name on one line, cut to fit into a figure."""
    return cut(one_line(name), limit)


def inline(svg: str, name: str) -> str:
    """The SVG for a page: no style or name spaces, ids unique by `name`, at most as wide as drawn and as its column."""
    svg = re.sub(r"<style.*?</style>", "", svg)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    width = round(float(found[1]) * 4 / 3) if found else 800
    svg = re.sub(
        r'(<svg[^>]*?) width="[\d.]+pt"', rf'\1 style="width:100%;max-width:{width}px;height:auto"', svg, count=1
    )
    return re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)


def quiet(axes: Axes) -> None:
    """Take the frame away."""
    for spine in axes.spines.values():
        spine.set_visible(False)


def grid(axes: Axes, axis: Any = "y") -> None:
    """Lines behind what is drawn, instead of a frame."""
    axes.grid(axis=axis, color=LINE, lw=0.7)
    axes.set_axisbelow(True)
    quiet(axes)


def legend_below(figure: Figure, drawn: Mapping[str, Any] | None = None, **options: Any) -> None:
    """One legend for all panels, below them: name -> what is drawn, by default what has a label in the first.

    Names from outside must be given: matplotlib leaves out a label that begins with an underscore.
    """
    named = drawn or dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    labels = [short(name) for name in named]
    figure.legend([*named.values()], labels, loc="outside lower center", ncols=min(5, len(named)), **options)


def _themed(svg: str) -> str:
    for name, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var(--{name}, {LIGHT[name]})")
    svg = re.sub(r"(font-family: |font: [^;'\"]*)'[^;\"]*", lambda found: found[1] + _FONT, svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # Coordinates to a hundredth of a point; the numbers that are read stand between tags, not in attributes.
    svg = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg[svg.index("<svg") :]).strip()
    svg = re.sub(r"(<style[^>]*>)", rf"\1{_DARK_STYLE} ", svg, count=1)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
