"""The words of the annotator `rules`, from `words.yaml`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


Words = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_checked)]


class WordLists(BaseModel):
    """The lists of `words.yaml`, by the names that they have there; each entry is a regular expression."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    people: Words
    face_words: Words
    animals: Words
    clothes: Words
    parts: Words
    colours: Words
    materials: Words
    looks: Words
    not_replaced: Words
    images: Words
    styles: Words
    places: Words
    lights: Words
    tones: Words
    feelings: Words
    postures: Words
    put_verbs: Words
    change_verbs: Words
    other_verbs: Words
    numbers: Words
    singular_in_s: Words


@cache
def packaged_words() -> WordLists:
    """The lists that ship, read once. Raises ConfigError when the file is damaged."""
    return parse_words((files("tagmoe.annotation.rules") / "words.yaml").read_text(encoding="utf-8"), "words.yaml")


def parse_words(text: str, name: str) -> WordLists:
    """The lists of a YAML text; `name` is what errors call it.

    Raises ConfigError for text that is no YAML, a missing, unknown or empty list, and an entry that is given twice, is
    not in lower case, is no regular expression, or captures a group.
    """
    return parse_yaml(text, f"The word lists {name!r}", WordLists)


def any_of(entries: Sequence[str]) -> str:
    """A regular expression that matches each of the entries."""
    return f"(?:{'|'.join(entries)})"
