"""Text from outside in Markdown."""

from __future__ import annotations

import re

from tagmoe.report.printable import one_line

# What CommonMark, GitHub's tables and its formulas give a meaning within a line.
_MARKS = re.compile(r"[\\`*_\[\]<>|~$&#]")


def markdown_text(text: str) -> str:
    """The text as a part of one line of Markdown that shows it as it is; also of a cell of a table or a heading."""
    return _MARKS.sub(r"\\\g<0>", one_line(text))
