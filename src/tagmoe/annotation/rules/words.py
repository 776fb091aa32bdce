"""Read an English editing instruction as a list of operations, and find the part that is not understood.

This is no parser. It looks for verbs, articles and a few hundred words that are common in the instructions of public
data sets (`words.yaml`). If the words do not say how much is edited (`things`), the pixels decide later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

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


def read(instruction: str) -> Reading:
    """Read an English instruction. Case, politeness, punctuation and the words of quoted text do not matter.

    Only the first MAX_CHARACTERS are read, as the patterns take a time that grows with the square of the length.
    """
    patterns = packaged_patterns()
    text = " ".join(patterns.quoted.sub("QUOTE", instruction[:MAX_CHARACTERS].strip()).split())
    text = text.lower().replace("\u2019", "'").replace("quote", "QUOTE").rstrip(" .!?,;")
    operations, unread = [], ""
    for clause in _clauses(text):
        found = _operation(clause)
        if found is not None:
            operations.append(found)
        elif len(clause.split()) >= 3 and not unread:
            unread = clause
    face = patterns.people_or_face.search(text) is not None
    # Headwear implies a face unless an animal is named.
    face = face or (patterns.face_words.search(text) is not None and not patterns.animals.search(text))
    return Reading(
        tuple(operations),
        unread,
        face=face,
        style=patterns.style_word.search(text) is not None,
        control_map=patterns.control_map.search(text) is not None,
    )


def _clauses(text: str) -> list[str]:
    patterns = packaged_patterns()
    clauses = []
    while (shorter := patterns.preamble.sub("", text)) != text:
        text = shorter
    text = patterns.locative.sub("", text)
    if text.startswith("in place of "):
        return [text]
    for part in patterns.between_clauses.split(text):
        while (shorter := patterns.preamble.sub("", part)) != part:
            part = shorter
        if part.strip():
            clauses.append(part.strip(" ,"))
    return clauses


def _operation(text: str) -> Operation | None:
    """The operation of one clause: that of the first pattern that fits. Certain patterns come first."""
    patterns = packaged_patterns()
    things = _things(text)
    if text.startswith("in place of "):
        return Operation("replace", things)
    if patterns.behind.search(text):
        return Operation("background", "whole")
    if found := patterns.remove.search(text):
        return _removal(" " + next(part for part in found.groups() if part is not None).strip(), things)
    if found := patterns.add.search(text):
        return _addition(found["what"], text, things)
    if patterns.setting_of_people.search(text):
        return Operation("background", "whole")
    if _asks_view(text):
        return Operation("viewpoint", "whole")
    if re.match(r"^(?:let|have) (?:an?|another|some|there be) ", text):
        return Operation("add", things)
    if re.search(r"\b(?:hold|holding|carry|carrying) (?:an?|some) ", text):
        return Operation("add", things)
    if re.match(r"^have no ", text):
        return Operation("remove", things)
    if patterns.without.search(text):
        return Operation("remove", worn=patterns.people_or_wear.search(text) is not None)
    if patterns.swap.search(text):
        return Operation("move", "several")
    if "QUOTE" in text and patterns.text.search(text):
        return Operation("text")
    if patterns.background.search(text):
        return Operation("background", "whole")
    if patterns.style_whole.search(text):
        return Operation("style", "whole")
    if patterns.light.search(text):
        return Operation("light", "whole")
    if (patterns.who.search(text) and patterns.pose.search(text)) or (
        re.search(r"^(?:smile|raise|close|open)\b|\bexpression\b", text) and patterns.pose.search(text)
    ):
        return Operation("pose", things)
    if patterns.wear.search(text) and not re.search(r"\bhair\b", text):
        return Operation("add", things, worn=True)
    if patterns.setting.search(text):
        return Operation("background", "whole")
    return _thing_operation(text, things)


def _thing_operation(text: str, things: Things) -> Operation | None:
    """The operation of a clause that changes, moves or replaces a thing."""
    patterns = packaged_patterns()
    if re.search(r"^(?:put|draw|place|paint)\b.*\bin(?:stead| place) of\b", text):
        return Operation("replace", things)
    if patterns.puts_something.match(text):
        return Operation("add", things)
    if re.search(r" (?:small(?:er)?|big(?:ger)?|large(?:r)?|tall(?:er)?)$", text):
        return Operation("attribute", things, resized=True)
    if patterns.move.search(text) or (
        patterns.puts.match(text) and patterns.to_a_place.search(text) and not _coloured(text)
    ):
        return Operation("move", things)
    if patterns.resize.search(text):
        return Operation("attribute", things, resized=True)
    whole = "whole" if patterns.whole_object.match(text) else things
    if _coloured(text) and not re.match(r"^(?:replace|substitute)\b", text):
        return Operation("attribute", whole)
    if patterns.gives_part.match(text):
        return Operation("attribute", things)
    if patterns.replace.search(text):
        return Operation("replace", things, gone=_person_first(text))
    if re.match(r"^(?:have|give|let|show)\b.* (?:an?|some|with) ", text):
        return Operation("add", things)
    if patterns.change.search(text) and not patterns.goes_on.search(text):
        return Operation("attribute", whole)
    return None


def _coloured(text: str) -> bool:
    """Whether a clause changes a look: it ends with one ("... red", "... to wood"), or names colour or material."""
    patterns = packaged_patterns()
    ends = patterns.attribute_end.search(text) is not None
    return ends and not patterns.becomes_thing.search(text) and patterns.change.search(text) is not None


def _removal(what: str, things: Things) -> Operation:
    patterns = packaged_patterns()
    if patterns.background.search(what):
        return Operation("background", "whole")
    if re.match(r"^ (?:the |this |any )?(?:[\w-]+ )?(?:style|filter|effect)\b", what):
        return Operation("style", "whole")
    if re.match(r"^ (?:the |all (?:the )?|any )?(?:fog|mist|haze|rain|glare|shadows?|snowfall)\b", what):
        return Operation("light", "whole")
    found = patterns.noun_phrase.match(what)
    head = found["head"] if found else what
    gone = patterns.person_itself.search(head) is not None
    worn = not gone and (patterns.on_person.search(what) is not None or patterns.garment.search(head) is not None)
    return Operation("remove", things, worn=worn, gone=gone)


def _addition(what: str, text: str, things: Things) -> Operation:
    patterns = packaged_patterns()
    if "QUOTE" in text or re.search(r"\b(?:text|caption|watermark)\b", what):
        return Operation("text", things)
    if patterns.light_added.search(what) and not re.search(r"\b(?:lamp|bulb|string|street) ", what):
        return Operation("light", "whole")
    if re.search(r"\b(?:filter|style|effect)\b", what):
        return Operation("style", "whole")
    if re.search(r"^ (?:an? |the )?(?:[\w-]+ ){0,3}(?:background|backdrop)$", what):
        return Operation("background", "whole")
    worn = patterns.on_person.search(what) is not None or (
        patterns.people.search(what) and patterns.clothes.search(what)
    )
    return Operation("add", things, worn=bool(worn))


def _things(text: str) -> Things:
    patterns = packaged_patterns()
    if patterns.as_one.search(text):
        return "one"
    if patterns.several.search(text):
        return "several"
    return "some" if patterns.plural_object.search(text) else "one"


def _person_first(text: str) -> bool:
    """Whether what is replaced is a person."""
    patterns = packaged_patterns()
    found = re.match(r"^\w+ (?P<first>.*?) (?:with|for|into|to|by|an?)\b", text)
    return found is not None and patterns.person_last.search(found["first"]) is not None


def _asks_view(text: str) -> bool:
    patterns = packaged_patterns()
    shown = re.match(
        r"^(?:show|view|look|see|redraw|draw|render|change|make|turn|zoom|rotate|move|shift|take|switch|give|let|"
        r"have|tilt|pan|use|the|as|from|an?)\b",
        text,
    )
    # "turn around" has no object, so the viewer turns.
    return text == "turn around" or (shown is not None and patterns.view.search(text) is not None)
