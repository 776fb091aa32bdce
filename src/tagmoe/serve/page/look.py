"""The look of the page: the colours of every other page of tagmoe, in light and dark, and no font from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from tagmoe.report.colours import DARK, LIGHT

SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")
PARTS = {
    "paper": ("body_background_fill", "background_fill_secondary", "panel_background_fill", "code_background_fill"),
    "card": (
        "background_fill_primary",
        "block_background_fill",
        "input_background_fill",
        "input_background_fill_focus",
        "checkbox_background_color",
        "button_secondary_background_fill",
        "button_cancel_background_fill",
        "button_primary_text_color",
        "block_label_background_fill",
    ),
    "ink": ("body_text_color", "block_label_text_color", "block_title_text_color", "button_secondary_text_color"),
    "soft": ("body_text_color_subdued", "block_info_text_color", "input_placeholder_color"),
    "line": (
        "border_color_primary",
        "block_border_color",
        "block_label_border_color",
        "input_border_color",
        "button_secondary_border_color",
        "checkbox_border_color",
        "button_secondary_background_fill_hover",
        "button_cancel_background_fill_hover",
    ),
    "accent": (
        "button_primary_background_fill",
        "button_primary_background_fill_hover",
        "button_primary_border_color",
        "checkbox_background_color_selected",
        "checkbox_border_color_selected",
        "border_color_accent",
        "input_border_color_focus",
        "link_text_color",
        "slider_color",
        "loader_color",
    ),
    "bad": ("button_cancel_text_color", "button_cancel_border_color", "error_text_color", "error_border_color"),
}
"""Colour of the palette -> variables of Gradio's themes that have it."""
LIGHT_ONLY = {"color_accent": "accent"}
CSS = Path(__file__).with_name("page.css")


def theme() -> Any:
    """Gradio's plain theme in our colours."""
    colours = {variable: LIGHT[colour] for colour, variables in PARTS.items() for variable in variables}
    colours |= {f"{variable}_dark": DARK[colour] for colour, variables in PARTS.items() for variable in variables}
    colours |= {variable: LIGHT[colour] for variable, colour in LIGHT_ONLY.items()}
    base = gr.themes.Base(font=list(SYSTEM), font_mono=list(MONO), radius_size="lg", spacing_size="md")
    return base.set(
        **colours,
        block_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        button_large_text_weight="600",
        block_label_text_weight="600",
        block_title_text_weight="600",
        input_border_width="1px",
    )


def css() -> str:
    """Our own rules, with the palette as variables."""
    light, dark = (";".join(f"--{name}:{colour}" for name, colour in side.items()) for side in (LIGHT, DARK))
    return f":root{{{light}}}\n.dark{{{dark}}}\n{CSS.read_text(encoding='utf-8')}"
