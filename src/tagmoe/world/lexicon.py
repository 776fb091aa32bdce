"""Synonyms of TagWorld's words (`lexicon.yaml`), and the nearest known word for a misspelled one."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

from tagmoe.files.yaml_text import read_yaml

from .instructions import words

_FILE = Path(__file__).with_name("lexicon.yaml")
_LISTS: dict[str, Any] = read_yaml(_FILE.read_text(encoding="utf-8"), _FILE.name)

PHRASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"\b(?:{phrase})\b"), own) for phrase, own in _LISTS["phrases"]
)
"""(pattern of several words, what they mean), in the order in which they are replaced."""
MEANING: dict[str, str] = {word: own for own, others in _LISTS["words"].items() for word in (own, *others.split())}
"""Every synonym, and TagWorld's own word for it."""
_ENGLISH = frozenset(_LISTS["english"].split())
_LEAST_LETTERS = 5
_CLOSE = 0.75


def normal_words(text: str) -> list[str]:
    """The words of a text, lower case. A known synonym becomes TagWorld's own word, and a mark that ends a part of the
    sentence is a word of its own.

    Plurals of shapes stay plurals. A word that is neither known nor near a known one stays as it is.
    """
    # One kind of apostrophe, and no genitive or short "is" ("the circle's", "it's").
    plain = re.sub(r"'s\b", "", text.lower().replace("\u2019", "'"))
    plain = " ".join(_spelled(word) for word in re.findall(r"\w+(?:'\w+)*|[,;.](?=\s+\w)", plain))
    for pattern, own in PHRASES:
        plain = pattern.sub(own, plain)
    return [_meaning(word) for word in plain.split()]


def _meaning(word: str) -> str:
    if word in MEANING:
        return MEANING[word]
    single = {"boxes": "box", "crosses": "cross", "pluses": "plus"}.get(word, word.removesuffix("s"))
    own = MEANING.get(single)
    if own is not None and single != word and own in ("circle", "square", "triangle", "star", "heart", "cross"):
        return f"{own}es" if own == "cross" else f"{own}s"
    return word


def is_known(word: str) -> bool:
    """Whether a word of `normal_words` is one of TagWorld or a common one of requests."""
    return word in _known() or word in _ENGLISH or len(word) < 3 or not word[0].isalpha()


@cache
def _known() -> frozenset[str]:
    plurals = {form for word in MEANING for form in (f"{word}s", f"{word}es")}
    parts = {part for phrase, _ in _LISTS["phrases"] for part in re.findall(r"[a-z]{2,}", phrase)}
    shapes = plurals & {"discs", "disks", "balls", "boxes", "blocks", "pluses"}
    return words() | MEANING.keys() | parts | shapes


def _spelled(word: str) -> str:
    """The word itself if it is known; else the closest known word of the same first letter, if one is close."""
    if word in _known() or word in _ENGLISH or len(word) < _LEAST_LETTERS or "'" in word:
        return word
    # A slip of the fingers adds, drops or changes a letter.
    alike = [known for known in sorted(_known()) if known[0] == word[0] and abs(len(known) - len(word)) <= 1]
    close = difflib.get_close_matches(word, alike, n=1, cutoff=_CLOSE)
    return close[0] if close else word
