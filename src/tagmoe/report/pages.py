"""What every HTML page shares: one style, all text escaped, nothing fetched from anywhere."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Templates of a package, with `page.css` to include. All text is escaped, and an unknown name is an error."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("tagmoe.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
