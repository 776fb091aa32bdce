"""The ground of every HTML page: shared style, macros and number formats, all text escaped, nothing fetched."""

from __future__ import annotations

from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tagmoe.report.colours import series_colour, style_variables
from tagmoe.report.numbers import FILTERS
from tagmoe.report.printable import printable


class Tile(NamedTuple):
    """A number at the top of a page, its name, what stands beside it, and a class of page.css for its colour."""

    value: str
    name: str
    beside: str = ""
    tone: str = ""


def page_environment(package: str) -> Environment:
    """Templates of a package, with page.css, macros.j2 and the number formats; an unknown name is an error."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("tagmoe.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**FILTERS, "expert_colour": series_colour}
    environment.globals["style_variables"] = Markup(style_variables())
    return environment


def _shown(value: Any) -> Any:
    """A text without the characters that cannot be shown. It is escaped after this, unless it is markup."""
    return type(value)(printable(value)) if isinstance(value, str) else value
