"""Parts of sentences for users: counted nouns, values that are cut, and what an error of a library says."""

from __future__ import annotations

import re
from collections.abc import Sized

LIMIT = 100
"""Most characters of a value in a sentence. The message of every error of tagmoe is held to it."""

LONGEST = 5000
"""Most characters of a message."""

# A value in quotes, as repr writes it, or one word. Possessive, so that a text of many megabytes takes one pass.
_VALUE = re.compile(
    r"""(?<!\w)'(?P<single>[^'\\]*+(?:\\.[^'\\]*+)*+)'(?!\w)"""
    r"""|(?<!\w)"(?P<double>[^"\\]*+(?:\\.[^"\\]*+)*+)"(?!\w)"""
    r"""|(?P<word>[^\s'"]++)""",
    re.DOTALL,
)


def cut(text: str, limit: int = LIMIT) -> str:
    """The text, without its middle where it is longer than `limit`. The end of a path says more than its middle."""
    if len(text) <= limit:
        return text
    head = 3 * (limit - 3) // 10
    return f"{text[:head]}...{text[len(text) - (limit - 3 - head) :]}"


def cut_values(sentence: str) -> str:
    """The sentence with every value in quotes, and every word, cut to LIMIT characters."""
    if len(sentence) <= LIMIT:
        return sentence

    def shorter(found: re.Match[str]) -> str:
        if len(found[0]) <= LIMIT:
            return found[0]
        quote = "" if found.lastgroup == "word" else found[0][0]
        return f"{quote}{cut(found[found.lastgroup or 0])}{quote}"

    return cut(_VALUE.sub(shorter, sentence), LONGEST)


def counted(things: int | Sized, noun: str, plural: str | None = None) -> str:
    """How many: "1 step", "2,000 steps"; of a number, or of a list's items. plural: by default the noun with an s."""
    number = len(things) if isinstance(things, Sized) else things
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def reason_of(error: BaseException) -> str:
    """What an error of a library or of the system says, on one line and cut."""
    if isinstance(error, UnicodeError):
        return "it is no text in UTF-8"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return cut(" ".join(str(said).split()), 2 * LIMIT).rstrip(".")
