"""Text from outside for people: characters that cannot be shown are replaced, so that no page or figure breaks."""

from __future__ import annotations

import re

# Control characters, halves of surrogate pairs and what is no character. XML has no way to write them.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# What breaks a line, or turns the direction of the text that follows.
_BREAKS = re.compile("[\r\n\t\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """The text with U+FFFD for what cannot be shown; line feeds stay."""
    return _HIDDEN.sub(REPLACEMENT, text)


def one_line(text: str) -> str:
    """The printable text on one line, as for a cell of a table."""
    return printable(_BREAKS.sub(" ", text))
