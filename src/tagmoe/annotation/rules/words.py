"""Read an English editing instruction as a list of operations, and find the part that is not understood.

This is no parser. It looks for verbs, articles and a few hundred words that are common in the instructions of public
data sets (`words.yaml`). If the words do not say how much is edited (`things`), the pixels decide later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tagmoe.annotation.rules.patterns import packaged_patterns
from tagmoe.data.sources.native_tasks import Edit

MAX_CHARACTERS = 2000
Things = Literal["one", "several", "some", "whole"]
"""How much is edited: one thing, several things, some (a plural in one place or several), or the whole picture."""


@dataclass(frozen=True)
class Operation:
    """One operation of an instruction.

    edit: its kind. things: how much is edited. worn: something is put on or taken off a person. resized: a thing gets
    another size. gone: a person is removed or replaced.
    """

    edit: Edit
    things: Things = "one"
    worn: bool = False
    resized: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Reading:
    """What an instruction says.

    operations: in the order of the words. unread: the first part that was not understood, or ''. face: whether words
    imply a face. style: whether a style is named. control_map: whether a map of edges, depth or a pose is named.
    """

    operations: tuple[Operation, ...]
    unread: str
    face: bool
    style: bool
    control_map: bool


class _Rule(NamedTuple):
    """What a clause asks for if it matches all patterns that `fits` names, and none of those after a "-".

    things: None for what the words say. details: tells the operation where that takes more than the patterns.
    """

    fits: str
    edit: Edit
    things: Things | None = None
    worn: bool = False
    resized: bool = False
    details: Callable[[str, Things], Operation] | None = None


def read(instruction: str) -> Reading:
    """Read an English instruction. Case, politeness, punctuation and the words of quoted text do not matter.

    Only the first MAX_CHARACTERS are read, as the patterns take a time that grows with the square of the length.
    """
    text = " ".join(packaged_patterns()["quoted"].sub("QUOTE", instruction[:MAX_CHARACTERS].strip()).split())
    text = text.lower().replace("\u2019", "'").replace("quote", "QUOTE").rstrip(" .!?,;")
    clauses = _clauses(text)
    found = [_by_rule(_RULES, clause, _things(clause)) for clause in clauses]
    unread = (clause for clause, one in zip(clauses, found, strict=True) if one is None and len(clause.split()) >= 3)
    # Headwear implies a face unless an animal is named.
    face = _has("people_or_face", text) or (_has("face_words", text) and not _has("animals", text))
    return Reading(
        tuple(one for one in found if one is not None),
        next(unread, ""),
        face=face,
        style=_has("style_word", text),
        control_map=_has("control_map", text),
    )


def _find(name: str, text: str) -> re.Match[str] | None:
    return packaged_patterns()[name].search(text)


def _has(name: str, text: str) -> bool:
    return _find(name, text) is not None


def _clauses(text: str) -> list[str]:
    text = packaged_patterns()["locative"].sub("", _without_preamble(text))
    if text.startswith("in place of "):
        return [text]
    parts = map(_without_preamble, packaged_patterns()["between_clauses"].split(text))
    return [part.strip(" ,") for part in parts if part.strip()]


def _without_preamble(text: str) -> str:
    while (shorter := packaged_patterns()["preamble"].sub("", text)) != text:
        text = shorter
    return text


def _by_rule(rules: Sequence[_Rule], text: str, things: Things) -> Operation | None:
    """The operation by the first rule that fits."""
    for rule in rules:
        if all(_has(name.removeprefix("-"), text) != name.startswith("-") for name in rule.fits.split()):
            if rule.details is not None:
                return rule.details(text, things)
            return Operation(rule.edit, rule.things or things, worn=rule.worn, resized=rule.resized)
    return None


def _removal(text: str, things: Things) -> Operation:
    found = _find("remove", text)
    what = " " + next(part for part in found.groups() if part is not None).strip() if found else ""
    named = _by_rule(_REMOVED, what, things)
    if named is not None:
        return named
    phrase = _find("noun_phrase", what)
    head = phrase["head"] if phrase else what
    gone = _has("person_itself", head)
    return Operation("remove", things, worn=not gone and (_has("on_person", what) or _has("garment", head)), gone=gone)


def _addition(text: str, things: Things) -> Operation:
    found = _find("add", text)
    what = found["what"] if found else ""
    if "QUOTE" in text:
        return Operation("text", things)
    worn = _has("on_person", what) or (_has("people", what) and _has("clothes", what))
    return _by_rule(_ADDED, what, things) or Operation("add", things, worn=worn)


def _replacement(text: str, things: Things) -> Operation:
    """A person is gone if the words before the new thing end with it."""
    found = _find("replaced_first", text)
    return Operation("replace", things, gone=found is not None and _has("person_last", found["first"]))


def _things(text: str) -> Things:
    if _has("as_one", text):
        return "one"
    if _has("several", text):
        return "several"
    return "some" if _has("plural_object", text) else "one"


# Certain patterns come first.
_RULES = (
    _Rule("in_place_of", "replace"),
    _Rule("behind", "background", "whole"),
    _Rule("remove", "remove", details=_removal),
    _Rule("add", "add", details=_addition),
    _Rule("setting_of_people", "background", "whole"),
    # "turn around" has no object, so the viewer turns.
    _Rule("turn_around", "viewpoint", "whole"),
    _Rule("shows view", "viewpoint", "whole"),
    _Rule("lets_be", "add"),
    _Rule("holds", "add"),
    _Rule("has_no", "remove"),
    _Rule("without people_or_wear", "remove", "one", worn=True),
    _Rule("without", "remove", "one"),
    _Rule("swap", "move", "several"),
    _Rule("QUOTE text", "text", "one"),
    _Rule("background", "background", "whole"),
    _Rule("style_whole", "style", "whole"),
    _Rule("light", "light", "whole"),
    _Rule("who_or_expression pose", "pose"),
    _Rule("wear -hair", "add", worn=True),
    _Rule("setting", "background", "whole"),
    # The clauses that are left change, move or replace a thing.
    _Rule("puts_instead", "replace"),
    _Rule("puts_something", "add"),
    _Rule("size_last", "attribute", resized=True),
    _Rule("move", "move"),
    # What is put to a place moves, unless the clause names a look.
    _Rule("puts to_a_place -attribute_end", "move"),
    _Rule("puts to_a_place becomes_thing", "move"),
    _Rule("puts to_a_place -change", "move"),
    _Rule("resize", "attribute", resized=True),
    # It ends with a look ("... red", "... to wood"), or names colour or material.
    _Rule("attribute_end -becomes_thing change -replaces whole_object", "attribute", "whole"),
    _Rule("attribute_end -becomes_thing change -replaces", "attribute"),
    _Rule("gives_part", "attribute"),
    _Rule("replace", "replace", details=_replacement),
    _Rule("gives", "add"),
    _Rule("change -goes_on whole_object", "attribute", "whole"),
    _Rule("change -goes_on", "attribute"),
)
# Of what is removed, and of what is added.
_REMOVED = (
    _Rule("background", "background", "whole"),
    _Rule("style_removed", "style", "whole"),
    _Rule("light_removed", "light", "whole"),
)
_ADDED = (
    _Rule("text_added", "text"),
    _Rule("light_added -lamp", "light", "whole"),
    _Rule("style_added", "style", "whole"),
    _Rule("background_added", "background", "whole"),
)
