"""One operation of an instruction, and the table of rules for clauses that tell it by single patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tagmoe.annotation.rules.patterns import packaged_patterns
from tagmoe.data.sources.native_tasks import Edit

Things = Literal["one", "several", "some", "whole", "pair", "it"]
"""How much is edited: one thing, several things, some (a plural in one place or several), or the whole picture.

Only pixels can tell two of them: "pair", two things that may lie together, and "it", which is a thing or the picture.
"""


@dataclass(frozen=True)
class Operation:
    """One operation of an instruction.

    edit: its kind. things: how much is edited. worn: something is put on or taken off a person. resized: a thing gets
    another size.
    """

    edit: Edit
    things: Things = "one"
    worn: bool = False
    resized: bool = False


class _Rule(NamedTuple):
    """What a clause asks for if it matches all patterns that `fits` names, and none of those after a "-".

    things: None for what the words say.
    """

    fits: str
    edit: Edit
    things: Things | None = None
    worn: bool = False
    resized: bool = False


def find(name: str, text: str) -> re.Match[str] | None:
    """Where the pattern of this name fits first."""
    return packaged_patterns()[name].search(text)


def has(name: str, text: str) -> bool:
    """Whether the pattern of this name fits."""
    return find(name, text) is not None


def by_rule(text: str, amount: Things) -> Operation | None:
    """The operation by the first rule of the table that fits."""
    for rule in _RULES:
        if all(has(name.removeprefix("-"), text) != name.startswith("-") for name in rule.fits.split()):
            return Operation(rule.edit, rule.things or amount, worn=rule.worn, resized=rule.resized)
    return None


# Certain patterns come first.
_RULES = (
    _Rule("behind", "background", "whole"),
    _Rule("setting_of_people", "background", "whole"),
    _Rule("lets_be", "add"),
    _Rule("holds", "add"),
    _Rule("ages", "attribute"),
    _Rule("has_no", "remove"),
    _Rule("without people_or_wear", "remove", "one", worn=True),
    _Rule("without", "remove", "one"),
    _Rule("swap", "move", "several"),
    _Rule("QUOTE text", "text", "one"),
    _Rule("background", "background", "whole"),
    _Rule("style_whole", "style", "whole"),
    _Rule("light_of_thing", "light"),
    _Rule("light -style_whole", "light", "whole"),
    _Rule("who_or_expression pose", "pose"),
    _Rule("setting", "background", "whole"),
    # The clauses that are left change, move or replace a thing.
    _Rule("size_last", "attribute", resized=True),
    # What is put to a place moves, unless the clause names a look.
    _Rule("puts to_a_place -attribute_end", "move"),
    _Rule("puts to_a_place -change", "move"),
    _Rule("resize", "attribute", resized=True),
    # It ends with a look ("... red", "... to wood"), or names colour or material.
    _Rule("attribute_end -becomes_thing change whole_object", "attribute", "it"),
    _Rule("attribute_end -becomes_thing change", "attribute"),
)
