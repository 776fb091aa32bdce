"""The one palette of all pages, figures and contact sheets; an expert has the same colour wherever it is shown."""

from __future__ import annotations

import colorsys

LIGHT = {
    "paper": "#faf9f6",
    "card": "#ffffff",
    "ink": "#22252a",
    "soft": "#6b7078",
    "line": "#e4e1d9",
    "accent": "#33658a",
    "good": "#2f7d55",
    "bad": "#b4532f",
    "above": "#c8553d",
    "below": "#3a7ca5",
    "warn": "#fff3d6",
    "warnink": "#6d4b00",
}
"""CSS variable -> colour on a light page. `above` and `below` chance; `warn` is the ground of a warning."""
DARK = {
    "paper": "#16181b",
    "card": "#1e2125",
    "ink": "#e6e4df",
    "soft": "#9aa0a8",
    "line": "#32363c",
    "accent": "#7fb2d6",
    "good": "#6cc096",
    "bad": "#e0906f",
    "above": "#d9705a",
    "below": "#5a9cc5",
    "warn": "#3a2f14",
    "warnink": "#f2d48a",
}
"""The same on a dark page."""

# The six of Okabe and Ito that are neither black nor yellow, then a violet and a brown as far from them as could be
# found for people with each kind of colour blindness.
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a3fe0", "#8b4a2b")
"""Colours of things that are told apart by colour: experts, and arms or tags where no expert is shown."""


def series_colour(number: int) -> str:
    """The colour of an expert (from 0), or of the n-th of other things, as #rrggbb; beyond SERIES, ever new hues."""
    if number < len(SERIES):
        return SERIES[number]
    red, green, blue = colorsys.hls_to_rgb(number * 0.618034 % 1, 0.42 + 0.14 * (number % 2), 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb as three numbers from 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def text_on(colour: str) -> str:
    """Ink that reads on a ground of this colour, whether the page is light or dark: dark or white."""
    red, green, blue = rgb(colour)
    return LIGHT["card"] if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else DARK["paper"]


def style_variables() -> str:
    """The CSS that defines every colour as a variable, for light and dark pages."""
    return (
        f":root {{ color-scheme: light dark; {_declared(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_declared(DARK)} }} }}"
    )


def _declared(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
