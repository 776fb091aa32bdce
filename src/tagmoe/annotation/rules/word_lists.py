"""The words of the annotator `rules`, from `words.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, create_model

from tagmoe.annotation.rules.parse import parse_yaml


def _checked(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        if not entry or entry != entry.lower():
            raise ValueError(f"the entry {entry!r} is empty or not in lower case")
        if entries.count(entry) > 1:
            raise ValueError(f"the entry {entry!r} is given twice")
        try:
            groups = re.compile(entry).groups
        except re.error as error:
            raise ValueError(f"the entry {entry!r} is no regular expression ({error})") from None
        if groups:
            raise ValueError(f"the entry {entry!r} captures a group; write (?:...)")
    return entries


NAMES = (
    "people",
    "face_words",
    "animals",
    "clothes",
    "parts",
    "colours",
    "materials",
    "looks",
    "not_replaced",
    "images",
    "styles",
    "places",
    "lights",
    "tones",
    "feelings",
    "postures",
    "put_verbs",
    "change_verbs",
    "other_verbs",
    "numbers",
    "singular_in_s",
    "prepositions",
    "participles",
    "nouns_in_ing",
    "no_comparatives",
    "graded",
    "sizes",
    "seasons",
    "hair",
    "makeup",
    "facial_hair",
    "maps",
    "refused",
    "vague",
    "grounds",
    "gestures",
)
"""The lists of `words.yaml`; each entry is a regular expression."""
Words = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_checked)]
_FIELDS: dict[str, Any] = dict.fromkeys(NAMES, Words)
_File = create_model("_File", __config__=ConfigDict(extra="forbid"), **_FIELDS)
WordLists = Mapping[str, tuple[str, ...]]


@cache
def packaged_words() -> WordLists:
    """The lists that ship, read once. Raises ConfigError when the file is damaged."""
    return parse_words((files("tagmoe.annotation.rules") / "words.yaml").read_text(encoding="utf-8"), "words.yaml")


def parse_words(text: str, name: str) -> WordLists:
    """The lists of a YAML text, by name; `name` is what errors call it.

    Raises ConfigError for text that is no YAML, a missing, unknown or empty list, and an entry that is given twice, is
    not in lower case, is no regular expression, or captures a group.
    """
    return dict(parse_yaml(text, f"The word lists {name!r}", _File))


def any_of(entries: Sequence[str]) -> str:
    """A regular expression that matches each of the entries."""
    return f"(?:{'|'.join(entries)})"
