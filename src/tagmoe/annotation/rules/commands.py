"""Read one clause, a command, as operations: by its verb, the noun of its object, and what that shall become.

What describes a thing ("standing next to the car", "in the red coat") is set apart first, so that its words decide
nothing. A reader gives None for a clause of another kind, and UNSURE where the words do not tell the tags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tagmoe.annotation.rules.operations import Operation, Things, by_rule, find, has
from tagmoe.annotation.rules.phrases import Phrase, person_stays, person_stays_without, phrase


class Command(NamedTuple):
    """The operations of a clause, and whether it names somebody who stays."""

    operations: tuple[Operation, ...]
    face: bool


UNSURE = Command((), False)
_BACKGROUND = Operation("background", "whole")
_LIGHT = Operation("light", "whole")
_STYLE = Operation("style", "whole")
_VIEW = Operation("viewpoint", "whole")
_ATTRIBUTE = Operation("attribute")
_SEASON = (_BACKGROUND, _LIGHT)
"""Another season changes what grows and lies around, and the light."""


def read_command(text: str) -> Command | None:
    """What a clause asks for; None if that is not understood."""
    for reader in _READERS:
        command = reader(text)
        if command is not None:
            return command if command.operations else None
    return None


def _unclear(text: str) -> Command | None:
    return (
        UNSURE
        if has("vague", text) or has("statement", text) or has("hidden_command", text) or has("eyes", text)
        else None
    )


def _replacement(text: str) -> Command | None:
    if has("in_place_of", text) or has("puts_instead", text):
        return Command((Operation("replace"),), False)
    found = find("replaces", text)
    if found is None:
        return None
    old, new = phrase(found["what"]), found["new"]
    aspect = _aspect(old, new, text)
    if aspect is not None:
        return aspect
    if old.is_whole or has("look_only", new):
        return UNSURE
    amount: Things = "several" if has("two_pairs", text) else things(text)
    replaced = Operation("replace", amount, worn=has("garment", old.head))
    return Command((replaced,), person_stays_without(old))


def _removal(text: str) -> Command | None:
    found = find("remove", text)
    if found is None:
        return None
    what = next(part for part in found.groups() if part is not None).strip()
    place = text[found.end() :].strip()
    gone = phrase(f"{what} from {place}" if place else what)
    face = person_stays_without(gone)
    if any(has(name, gone.head) for name in ("facial_hair", "background_noun", "bare_light")):
        return UNSURE
    if has("style_noun", gone.head) and not gone.tail:
        return Command((_STYLE,), False)
    if has("cast_noun", gone.head):
        return _cast(gone, face)
    if has("weather_noun", gone.head):
        return Command((_LIGHT,), face) if not gone.tail else UNSURE
    if has("makeup", gone.head) or has("hair_noun", gone.head):
        return Command((_ATTRIBUTE,), face)
    worn = not gone.is_person and (has("garment", gone.head) or has("on_person", f" {gone.tail}"))
    return Command((Operation("remove", _named(what, text), worn=worn),), face)


def _cast(cast: Phrase, face: bool) -> Command:
    """The light of a shadow or a glow: at one place, or all of them."""
    if cast.tail and not has("whole_place", cast.tail):
        return Command((Operation("light"),), face)
    return Command((_LIGHT,), face) if has("plural_or_mass", cast.head) else UNSURE


def _addition(text: str) -> Command | None:
    found = find("add", text) or find("puts_new", text)
    return None if found is None else _added(found["what"].strip(), text)


def _added(what: str, text: str) -> Command:
    """What is added decides: a thing, a text, a style, light, or the surface of what it is added to."""
    new = phrase(what)
    face = person_stays_without(new)
    several = has("and_to", what)
    if has("unsure_addition", new.head) or has("facial_hair", new.head):
        return UNSURE
    if "QUOTE" in what or has("text_noun", new.head):
        return Command((Operation("text"),), face)
    if has("style_noun", new.head):
        return Command((_STYLE,), False)
    if has("background_noun", new.head):
        return Command((_BACKGROUND,), face)
    if has("feeling_noun", new.head):
        return Command((Operation("pose"),), face)
    if has("cast_noun", new.head):
        return _cast(new, face)
    if has("falling_weather", new.head):
        return UNSURE
    if has("light_noun", new.head) or has("weather_noun", new.head):
        everywhere = not new.tail or has("whole_place", new.tail) or has("falling", new.tail)
        return Command((_LIGHT,), face) if everywhere else UNSURE
    if has("look_noun", new.head) or has("makeup", new.head) or has("hair_noun", new.head):
        if has("whole_place", new.tail) or not new.tail:
            return Command((Operation("attribute", "whole"),), face) if has("colour_noun", new.head) else UNSURE
        return Command((_ATTRIBUTE,), face)
    worn = not new.is_person and (has("on_person", f" {new.tail}") or has("worn_by", what))
    amount: Things = "several" if several else things(text)
    if not several and not worn and has("two_new", what):
        amount = "pair"
    return Command((Operation("add", amount, worn=worn),), face)


def _relocation(text: str) -> Command | None:
    found = find("moves", text)
    if found is None:
        return None
    old, goal = phrase(found["what"]), found["goal"]
    if has("camera_last", old.head):
        return Command((_VIEW,), person_stays(text))
    if old.is_whole and old.head not in ("it", "this", "that"):
        return None
    if has("garment", goal) and has("into_clothes", goal):
        return Command((Operation("add", worn=True),), person_stays(text))
    if has("hair_noun", old.head):
        return Command((_ATTRIBUTE,), person_stays(text))
    if has("and_back", text):
        return Command((Operation("move", "several"),), person_stays(text))
    if has("new_place", goal):
        return Command((_BACKGROUND,), person_stays(text))
    if has("known_goal", goal) and old.head != "it":
        return Command((Operation("move", things(text)),), has("people_or_face", text))
    return None if old.is_whole else UNSURE


def _viewpoint(text: str) -> Command | None:
    if has("close_up_of", text):
        return UNSURE
    if has("lit", text) or not (has("turn_around", text) or (has("shows", text) and has("view", text))):
        return None
    return Command((_VIEW,), person_stays(text))


def _extension(text: str) -> Command | None:
    return Command((_BACKGROUND,), person_stays(text)) if has("extends", text) else None


def _wearing(text: str) -> Command | None:
    found = find("wears", text)
    if found is None:
        return None
    wearer = next((part for part in found.groups() if part is not None), "")
    put_on = Operation("replace" if has("instead", text) else "add", things(wearer), worn=True)
    return Command((put_on,), person_stays(text))


def _gift(text: str) -> Command | None:
    found = find("gives_new", text)
    if found is None:
        return None
    who, new = phrase(found["what"]), phrase(found["new"])
    face = person_stays(found["what"]) or has("owner", found["what"])
    if "QUOTE" in found["new"]:
        return Command((Operation("text"),), face)
    if has("background_noun", new.head) or has("background_noun", who.head):
        return Command((_BACKGROUND,), face)
    if who.is_whole and who.head != "it":
        return None
    if has("size_noun", new.head):
        return Command((Operation("attribute", resized=True),), face)
    if has("look_only", new.head) and not has("feeling_noun", new.head):
        if who.head == "it":
            return None
        return Command((Operation("attribute", things(text)),), face)
    if has("facial_hair", new.head) or has("vague_gift", new.head):
        return UNSURE if not has("feeling", new.head) else Command((Operation("pose"),), face)
    if has("feeling_noun", new.head):
        return Command((Operation("pose"),), face)
    if any(has(name, new.head) for name in ("hair_noun", "makeup", "look_noun", "part_noun")):
        if has("part_noun", new.head) and not has("has_look", new.head):
            return UNSURE
        return Command((Operation("attribute", things(text)),), face)
    if who.head == "it" and not has("known_thing", new.head):
        return None
    return Command((Operation("add", things(f"add {found['new']}"), worn=face or has("garment", new.head)),), face)


def _act(text: str) -> Command | None:
    """Somebody takes a pose, or stands in a new place."""
    if has("pose_statement", text):
        return Command((Operation("pose", things(text)),), person_stays(text))
    found = find("acts", text)
    if found is None:
        return None
    who = phrase(found["what"])
    if has("new_place", found["new"]):
        return Command((_BACKGROUND,), person_stays(text)) if has("stays_somewhere", found["new"]) else UNSURE
    if not has("who_last", who.head):
        return None
    if has("new_thing_below", found["new"]):
        return UNSURE
    return Command((Operation("pose", things(f"make {found['what']}")),), person_stays(text))


_CHANGES = ("changes_by_look", "changes_to", "changes_a", "changes_whole")


def _change(text: str) -> Command | None:
    """A thing, the picture, or a side of them ("the colour of the car") becomes something."""
    found = next(filter(None, (find(name, text) for name in _CHANGES)), None)
    if found is None:
        return None
    old, new = phrase(found["what"]), found["new"].strip()
    aspect = _aspect(old, new, text)
    if aspect is not None:
        return aspect
    if old.is_whole or has("drawn", old.head):
        return _whole_change(old, new)
    # "be asleep" tells a state, "into gold dust" a thing.
    if has("bare_word", new) and (found.groupdict().get("joint") or "be") in ("be", "become", "look", "as"):
        new = f"be {new}"
    return _thing_change(old, new, things(f"change {found['what']}"))


def _aspect(old: Phrase, new: str, text: str) -> Command | None:
    """A command about a side of a thing or the picture; None where the noun is a thing."""
    face = person_stays(f"{old.head} {old.tail}")
    amount = things(f"change {old.head} {old.tail}")
    whole = not old.tail or has("whole_place", old.tail)
    if has("background_noun", old.head) or (has("look_noun", old.head) and has("of_background", old.tail)):
        return Command((_BACKGROUND,), face)
    if has("sky_noun", old.head):
        if has("look_only", new):
            return UNSURE
        if has("tone", new):
            return Command((_LIGHT,), face)
        return Command((_BACKGROUND,), face) if has("thing", new) else UNSURE
    if has("season_noun", old.head) or (has("weather_name", old.head) and has("season", new)):
        return Command(_SEASON, face)
    if has("time_of_day", f"{old.head} {old.tail}"):
        return Command((_LIGHT,), face)
    if has("light_noun", old.head) or old.head == "the light":
        return Command((_LIGHT if whole else Operation("light"),), face)
    if has("cast_noun", old.head):
        return _cast(old, face)
    if has("moment_last", old.head) and has("moment_last", new):
        return Command((_LIGHT,), face)
    if has("style_noun", old.head):
        return Command((_STYLE,), False) if whole else UNSURE
    if has("view_noun", old.head):
        return Command((_VIEW,), face)
    if has("expression_noun", old.head) or has("pose_noun", old.head):
        return Command((Operation("pose", amount),), not has("animals", text))
    if has("text_noun", old.head) or "QUOTE" in new:
        return Command((_ATTRIBUTE if has("look_only", new) else Operation("text"),), face)
    if has("size_noun", old.head):
        return Command((Operation("attribute", amount, resized=True),), face)
    if has("hair_noun", old.head) or has("facial_hair", old.head):
        return Command((_ATTRIBUTE,), not has("animals", text))
    if has("look_noun", old.head):
        if has("whole_place", old.tail) or has("all_colours", f"{old.head} {old.tail}".strip()):
            amount = "whole"
        elif not old.tail and has("alone_look", old.head):
            amount = "it"
        return Command((Operation("attribute", amount),), face)
    return None


def _whole_change(old: Phrase, new: str) -> Command | None:
    face = person_stays(old.tail)
    styled = has("styled", new)
    if (styled and has("moment", new)) or (has("weather_state", new) and new != "snow"):
        return UNSURE
    if styled or (has("drawn", old.head) and has("photo_last", new)):
        return Command((_STYLE,), face)
    if has("season", new):
        return Command(_SEASON, face)
    if has("look_only", new):
        if has("tone", new):
            return Command((_LIGHT,), face) if old.head != "it" else None
        if not has("vivid", new) and old.head not in ("it", "this", "that"):
            return UNSURE
        thing: Things = "it" if old.head in ("it", "this", "that") else "whole"
        return Command((Operation("attribute", thing),), face)
    if old.head == "it" and has("instead", new):
        return Command((Operation("replace"),), False)
    return None


def _thing_change(old: Phrase, new: str, amount: Things) -> Command | None:
    face = person_stays(f"{old.head} {old.tail}")
    if has("new_place", new):
        return Command((_BACKGROUND,), face) if has("stays_somewhere", new) else UNSURE
    if has("look_only", new):
        if has("tone", new) and not has("shade", new):
            return UNSURE
        named = f"{old.head} {old.tail}"
        if has("two_looks", named):
            amount = "several"
        elif has("two_things", named):
            amount = "pair"
        return Command((Operation("attribute", amount, resized=has("size_only", new)),), face)
    if has("garment", old.head):
        return (
            Command((Operation("replace", amount, worn=True),), person_stays_without(old))
            if has("thing", new)
            else UNSURE
        )
    if has("place_last", old.head):
        return Command((_BACKGROUND,), face) if has("place_last", phrase(new).head) else UNSURE
    if has("feeling", new) and has("who_last", old.head):
        return Command((Operation("pose", amount),), face)
    if old.is_person and (has("person_as_drawn", new) or has("disguise", new)):
        return UNSURE
    if has("thing", new) and not has("instead_look", new):
        return Command((Operation("replace", amount),), person_stays_without(old))
    return None


def _by_table(text: str) -> Command | None:
    operation = by_rule(text, things(text))
    if operation is None or (operation.edit == "style" and has("moment", text)):
        return None
    return Command((operation,), person_stays(text))


def _named(what: str, text: str) -> Things:
    """How many things an object names: two phrases are two places, if each has its own; else that is open."""
    if has("two_places", what):
        return "several"
    return "pair" if has("two_things", what) else things(text)


def things(text: str) -> Things:
    """How much a clause edits, by its numbers and plurals."""
    if has("as_one", text):
        return "one"
    if has("several", text):
        return "several"
    return "some" if has("plural_object", text) else "one"


def _grading(text: str) -> Command | None:
    if has("colours_whole", text):
        return Command((Operation("attribute", "whole"),), person_stays(text))
    if has("lights_up", text):
        return Command((_LIGHT,), person_stays(text))
    found = find("grades", text)
    if found is None:
        return None
    side = phrase(found["what"])
    whole = not side.tail or has("whole_place", side.tail)
    if has("size_noun", side.head):
        return Command((Operation("attribute", resized=True),), person_stays(text))
    if not whole:
        return UNSURE
    if has("light_noun", side.head):
        return Command((_LIGHT,), person_stays(text))
    return Command((Operation("attribute", "whole"),), person_stays(text)) if has("colour_noun", side.head) else UNSURE


_READERS: tuple[Callable[[str], Command | None], ...] = (
    _unclear,
    _replacement,
    _removal,
    _wearing,
    _addition,
    _grading,
    _relocation,
    _viewpoint,
    _extension,
    _gift,
    _act,
    _change,
    _by_table,
)
