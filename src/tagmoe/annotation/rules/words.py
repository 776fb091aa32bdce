"""Read an English editing instruction as a list of operations, and find the part that is not understood.

This is no parser. It looks for verbs, articles and some hundred words that are common in the instructions of public
data sets (`words.yaml`). If the words do not say how much is edited (`things`), the pixels decide later.
"""

from __future__ import annotations

from dataclasses import dataclass

from tagmoe.annotation.rules.clauses import split
from tagmoe.annotation.rules.commands import read_command
from tagmoe.annotation.rules.operations import Operation, has
from tagmoe.annotation.rules.patterns import packaged_patterns
from tagmoe.annotation.rules.phrases import person_stays

MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class Reading:
    """What an instruction says.

    operations: in the order of the words. unread: the first part that was not understood, or ''. face: whether words
    imply a face that stays. style: whether a style is named. control_map: whether a map of edges, depth or a pose is
    named. from_map: whether a picture is to be made from that map. again: whether a later clause goes on about the
    thing of an earlier one ("... and make it red").
    """

    operations: tuple[Operation, ...]
    unread: str
    face: bool
    style: bool
    control_map: bool
    from_map: bool = False
    again: bool = False


def read(instruction: str) -> Reading:
    """Read an English instruction. Case, politeness, punctuation and the words of quoted text do not matter.

    Only the first MAX_CHARACTERS are read, as the patterns take a time that grows with the square of the length.
    """
    text = " ".join(packaged_patterns()["quoted"].sub("QUOTE", instruction[:MAX_CHARACTERS].strip()).split())
    text = text.lower().replace("\u2019", "'").replace("quote", "QUOTE").rstrip(" .!?,;")
    commands, kept = split(text)
    found = [read_command(clause) for clause in commands]
    unread = [clause for clause, one in zip(commands, found, strict=True) if one is None]
    from_map = has("from_map", text)
    if has("beyond", text) or (has("perceives", text) and not from_map):
        unread.insert(0, text)
    operations = tuple(operation for one in found if one is not None for operation in one.operations)
    return Reading(
        operations,
        unread[0] if unread else "",
        # A word alone tells no face; with it a reference picture is described.
        face=any(one.face for one in found if one is not None) or person_stays(kept if operations else text),
        style=has("style_word", text),
        control_map=has("control_map", text),
        from_map=from_map,
        again=any(has("goes_on_about", clause) for clause in commands[1:])
        or (len(operations) > 1 and all(operation.worn or operation.edit == "pose" for operation in operations)),
    )
