"""Rephrase a loosely worded instruction on a TagWorld picture in TagWorld's grammar, without access to the truth.

The words tell which kind of change is meant. The picture, read by the oracle, tells which thing is meant, and which
words only describe what is there already: on a red circle, "red" is a description and "blue" is a wish. If that stays
unclear, `rephrase` returns no text instead of a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.tags import TaskDescriptor

from . import scene as world
from .described import described_colour, described_face, described_item, described_scenes
from .instructions import LIGHT_PHRASES, PLURALS, STYLE_PHRASES, background_phrase, thing_phrase
from .lexicon import normal_words
from .mentions import FLIPPED, NEW, OLD, Mention, Mentions, Place, fits
from .oracle import pixels, read
from .rules import Picture, rule_tags
from .scene import PLACES, Background, Face, Item, Scene, Thing

_COLOURED = 40  # levels: a larger distance from grey is a colour


@dataclass(frozen=True)
class Rephrased:
    """text: the instruction in the grammar; None where none was found. task, descriptor: what the rules say of the text
    (`tagmoe.world.rules`). reason: one sentence that says how the text was found, or why not."""

    text: str | None
    task: str | None
    descriptor: TaskDescriptor | None
    reason: str


def rephrase(instruction: str, pictures: Sequence[Picture] = ()) -> Rephrased:
    """The instruction in the grammar that TagWorld models are trained on, if words and picture make it clear.

    An instruction of the grammar comes back as it is. Raises ImageError for an array that is no picture.
    """
    known = rule_tags(instruction, pictures)
    if known.task is not None:
        return Rephrased(instruction, known.task, known.descriptor, known.reason)
    if len(pictures) > 1:
        return Rephrased(None, None, None, f"the grammar covers tasks with one picture, and {len(pictures)} are given")
    said = Mentions(normal_words(instruction))
    if said.strangers:
        return Rephrased(None, None, None, f"there is no {said.strangers[0]!r} in TagWorld")
    for text in _readings(said, pictures):
        # Read the text back by the rules, so that only texts of the grammar are returned.
        found = rule_tags(text, pictures)
        if found.task is not None:
            return Rephrased(text, found.task, found.descriptor, f"read as the task {found.task}")
    return Rephrased(None, None, None, _why(said, pictures))


def _why(said: Mentions, pictures: Sequence[Picture]) -> str:
    """Why nothing was found, as far as it can be told."""
    scene = read(pictures[0]).scene if pictures else None
    if scene is not None:
        people = said.of("person", "hair", "hat", "sunglasses") or said.any(*world.EXPRESSIONS)
        if scene.face is None and people:
            return "the picture shows no person"
        for thing in said.things:
            if thing.noun in world.SHAPES and _match(scene, thing) is None:
                there = any(_is_kind(cell, thing) for cell in scene.cells)
                which = f"it is not clear which {thing.noun} is meant"
                return which if there else f"the picture shows no {thing.noun}"
    return "the words and the picture do not tell which task of the grammar is meant"


def _readings(said: Mentions, pictures: Sequence[Picture]) -> Iterator[str]:
    """Instructions of the grammar that the words can stand for, the most certain first."""
    if not pictures:
        yield from (f"draw {text}" for text in described_scenes(said))
        return
    scene = read(pictures[0]).scene
    if _is_map(pictures[0]) or said.any("map"):
        # A structure map shows no colours: only the words say what is to be drawn from it.
        yield from (f"draw {text} from this map" for text in described_scenes(said, places=False))
    if scene is None:
        return
    if said.has_view and not said.things:
        yield "show this from behind"
    yield from _whole_picture(said, scene)
    yield from _ground(said, scene)
    yield from _several(said, scene)
    yield from _person(said, scene)
    yield from _things(said, scene)
    if said.has_view:
        yield "show this from behind"


def _is_map(picture: Picture) -> bool:
    """Whether a picture is a structure map: black shapes on white."""
    grey = pixels(picture).astype(float)
    return bool(np.ptp(grey, axis=-1).max() < _COLOURED and (np.abs(grey - 127.5) > 127.5 - _COLOURED).mean() > 0.9)


def _fresh(values: Sequence[str | None], now: str | None) -> list[str]:
    """What is said and not true yet, each once."""
    return [value for value in dict.fromkeys(values) if value is not None and value != now]


# The whole picture ----------------------------------------------------------------------------------------------


def _whole_picture(said: Mentions, scene: Scene) -> Iterator[str]:
    if scene.style != "flat" and said.any("style", "look", "like", "same", "matching", *world.STYLES[1:]):
        yield from (f"draw {text} in this style" for text in described_scenes(said, style=False, like=scene))
    about_things = any(thing.before or thing.article or thing.after for thing in said.things)
    styles = _fresh([style for style in world.STYLES[1:] if style in said.set], scene.style)
    if scene.style != "flat" and not about_things:
        undone = said.any(scene.style) or (said.any("remove", "back") and said.any("style", "look"))
        if said.any("flat") or (undone and not styles):
            yield "turn this into a flat picture"
    lights = _fresh([light for light in world.LIGHTS[1:] if light in said.set], scene.light)
    is_relit = said.any("daylight") or (not about_things and said.any("flat", scene.light))
    if scene.light != "day" and is_relit and not lights:
        yield "show this in daylight"
    if len(scene.occupied) == 1:
        yield from _subject(said, scene)
    goal = any(_fresh([thing.said(kind) for kind in ("colour", "texture")], None) for thing in said.things)
    if len(lights) == 1 and not (about_things and goal):
        yield f"show this {LIGHT_PHRASES[lights[0]]}"
    if len(styles) == 1 and not (about_things and goal):
        yield f"turn this into {STYLE_PHRASES[styles[0]]}"


def _subject(said: Mentions, scene: Scene) -> Iterator[str]:
    """The only thing of the picture on another background, at a place that the words say."""
    places = [place for thing in said.things for place in thing.places] + said.free_places
    grounds = _fresh(said.grounds, scene.background.colour)
    (at,) = scene.occupied
    named = [thing for thing in said.things if thing.noun in ("thing", "person") or _match(scene, thing) == at]
    if len(places) != 1 or len(grounds) != 1 or len(named) != len(said.things):
        return
    kind = "person" if scene.face is not None else "thing"
    pattern = next((p for p in said.patterns if p != "plain"), "plain")
    height, side = _filled(places[0], at)
    yield f"put this {kind} at the {height} {side} on {background_phrase(Background(grounds[0], pattern))}"


def _ground(said: Mentions, scene: Scene) -> Iterator[str]:
    """Another colour or pattern of the background."""
    now = scene.background
    grounds = _fresh(said.grounds, now.colour)
    patterns = _fresh(said.patterns, now.pattern)
    named = bool(said.of("background")) or said.behind_things
    if not patterns and said.patterns and said.any("remove") and now.pattern != "plain":
        patterns = ["plain"]
    if len(patterns) > 1 and "plain" in patterns:
        patterns.remove("plain")
    if len(grounds) == 1:
        if len(patterns) == 1:
            both = background_phrase(Background(grounds[0], patterns[0]), say_plain=True)
            yield f"change the background to {both}"
        yield f"make the background {grounds[0]}"
    elif len(patterns) == 1 and (named or not said.things):
        yield f"make the background {patterns[0]}"


# Several things -------------------------------------------------------------------------------------------------


def _several(said: Mentions, scene: Scene) -> Iterator[str]:
    """Changes of a group: all things of a shape or of a colour, or everything."""
    groups = [mention for mention in said.nouns if mention.plural or mention.noun == "everything"]
    if not groups and said.any("all"):
        groups = [mention for mention in said.nouns if mention.noun in (*world.SHAPES, "thing")]
    if not groups and not said.nouns and said.any("remove"):
        groups = [Mention("everything", -1, -1)]  # "nothing orange should be left"
    if not groups or said.any("swap"):
        return
    group = groups[0]
    items = [thing for thing in scene.cells if isinstance(thing, Item)]
    colours = [value for m in said.nouns for kind, value in [*m.before.items(), *m.after] if kind == "colour"]
    colours = list(dict.fromkeys([*colours, *(value for kind, value in said.loose if kind == "colour")]))
    shape = group.noun if group.noun in world.SHAPES else None
    if shape is not None:
        name = PLURALS[shape]
        left = [c for c in colours if c != group.before.get("colour")]
        if len(left) > 1:
            left = [c for c in left if not all(item.colour == c for item in items if item.shape == shape)]
    else:
        # Of two colours, the one that several things have names the group.
        shared = [c for c in colours if sum(item.colour == c for item in items) > 1]
        by_colour = shared and (len(colours) > 1 or said.any("remove"))
        name = f"{shared[0]} things" if by_colour else ""
        left = [c for c in colours if not by_colour or c != shared[0]]
    if len(left) == 1:
        yield f"make all the {name} {left[0]}" if name else f"make everything {left[0]}"
    elif said.any("remove") and name and not left:
        yield f"remove all the {name}"


# The person -----------------------------------------------------------------------------------------------------


def _person(said: Mentions, scene: Scene) -> Iterator[str]:
    """Changes of the person in the picture."""
    if scene.face is None:
        return
    face = scene.cells[scene.face]
    assert isinstance(face, Face)
    shapes = [thing for thing in said.things if thing.noun != "person"]
    if shapes or (said.of("skin") and said.any("add")):
        return
    looks = _fresh([look for look in world.EXPRESSIONS if look in said.set], face.expression)
    hairs = [hair for hair in _fresh(said.hairs, face.hair) if hair in world.HAIRS]
    hats = said.of("hat")
    colours = [hat.said("colour") for hat in hats]
    hat = next((colour for colour in _fresh(colours, face.hat) if colour in world.HATS), None)
    if said.any("remove") or not (looks or hairs):
        if said.any("remove"):
            worn = {"sunglasses": face.glasses, "hat": face.hat is not None and hat is None}
            yield from (f"take off the {name}" for name in worn if worn[name] and said.of(name))
        if said.of("sunglasses") and not face.glasses:
            yield "make the person wear sunglasses"
        if hats and (face.hat is None or hat is not None):
            yield f"make the person wear a {hat or world.HATS[0]} hat"
    if len(looks) == 1:
        yield f"make the person {looks[0]}"
    if len(hairs) == 1:
        yield f"make the hair {hairs[0]}"


# One thing or two -----------------------------------------------------------------------------------------------


def _things(said: Mentions, scene: Scene) -> Iterator[str]:
    """Changes of one thing or of two."""
    things = said.things
    if not things and (said.loose or said.free_places or said.any("remove")) and len(scene.occupied) == 1:
        # "Make it green": the only thing of the picture.
        things = [Mention("thing", -1, -1, after=said.loose, places=said.free_places)]
    there = [_match(scene, thing) for thing in things]
    found = list(dict.fromkeys(place for place in there if place is not None))
    definite = all(thing.article != NEW for thing in things)
    if len(found) == 2 and definite and said.any("swap", "where"):
        yield f"swap {_ref(scene, found[0])} and {_ref(scene, found[1])}"
    yield from _added(said, scene, things)
    yield from _replaced(scene, things, there)
    for thing, place in zip(things, there, strict=True):
        if place is not None:
            yield from _changed(said, scene, thing, place)
    if said.any("remove") and found:
        yield f"remove {_ref(scene, found[0])}"


def _added(said: Mentions, scene: Scene, things: Sequence[Mention]) -> Iterator[str]:
    """A new thing: described with an indefinite article, or one that the picture does not show."""
    if said.any("swap", "replace", "remove") and not said.any("add"):
        return
    for thing in things:
        new = _new_thing(said, scene, thing)
        if new is None or thing.article == OLD:
            continue
        others = [other for other in things if other is not thing]
        place = _goal(said, scene, thing, others)
        if place is None and said.any("add") and not others and not thing.places:
            place = scene.empty[0] if scene.empty else None
        seen = _match(scene, thing)
        is_new = thing.article == NEW or said.any("add") or seen is None
        if place is not None and is_new:
            yield f"add {thing_phrase(new)} at the {PLACES[place]}"


def _new_thing(said: Mentions, scene: Scene, thing: Mention) -> Thing | None:
    """The thing that a mention describes in full; "another" one looks as those of its shape."""
    if thing.noun == "person":
        return described_face(said)
    if thing.noun not in world.SHAPES:
        return None
    colour = described_colour(thing, scene)
    if colour is None and said.any("another"):
        alike = {item.colour for item in scene.cells if isinstance(item, Item) and item.shape == thing.noun}
        colour = alike.pop() if len(alike) == 1 else None
    return None if colour is None else described_item(thing, colour)


def _goal(said: Mentions, scene: Scene, thing: Mention, others: Sequence[Mention]) -> int | None:
    """The empty cell that is meant: said by its place, or by where it lies from another thing."""
    beside = [place for other in others if (place := _match(scene, other)) is not None]
    wanted: list[Place] = [*thing.places, *(place for other in others for place in other.places), *said.free_places]
    height, side = PLACES[beside[0]].split() if beside else (None, None)
    if beside and said.any("under", "above"):
        wanted.append(("bottom" if said.any("under") else "top", side))
    if beside and said.any("beside"):
        wanted.append((height, FLIPPED[side or "left"]))
    for where in wanted:
        cells = [i for i in scene.empty if fits(i, where)]
        if None in where and beside and len(cells) > 1:
            cells = [i for i in cells if fits(i, (where[0] or height, where[1] or side))] or cells
        if len(cells) == 1:
            return cells[0]
    return None


def _replaced(scene: Scene, things: Sequence[Mention], there: Sequence[int | None]) -> Iterator[str]:
    """One thing becomes another that the words describe."""
    for thing, place in zip(things, there, strict=True):
        old = None if place is None else scene.cells[place]
        if place is None or not isinstance(old, Item):
            continue
        for wanted in things:
            if wanted is thing or wanted.noun not in world.SHAPES or wanted.noun == old.shape:
                continue
            colour = described_colour(wanted)
            new = f"a {wanted.noun}" if colour in (None, old.colour) else thing_phrase(Item(wanted.noun, colour or ""))
            yield f"replace {_ref(scene, place)} with {new}"


def _changed(said: Mentions, scene: Scene, thing: Mention, place: int) -> Iterator[str]:
    """Another place, colour, texture or size of a thing that is there."""
    ref, old = _ref(scene, place), scene.cells[place]
    places = [*thing.places, *said.free_places]
    goals = {i for where in places for i in scene.empty if fits(i, _filled(where, place))}
    if len(goals) == 1:
        yield f"move {ref} to the {PLACES[goals.pop()]}"
    if not isinstance(old, Item):
        return
    for kind, now in (("texture", old.texture), ("size", old.size), ("colour", old.colour)):
        values = [value for name, value in [*thing.before.items(), *thing.after, *said.loose] if name == kind]
        if kind == "colour":
            values = [value for value in values if value in world.COLOURS]
        goal = _fresh(values, now)
        if not goal and values and kind == "texture" and said.any("remove") and now != "plain" and thing.after:
            goal = ["plain"]
        if goal:
            yield f"make {ref} {goal[-1]}"


def _filled(said: Place, at: int) -> Place:
    """The place that is said; a height or side that is not said is that of the cell `at`."""
    height, side = PLACES[at].split()
    return said[0] or height, said[1] or side


def _match(scene: Scene, thing: Mention) -> int | None:
    """The place of the only thing that a mention fits. What does not fit is dropped: size, texture, then colour.

    Colours count only in styles that show them.
    """
    cells = [i for i in scene.occupied if _is_kind(scene.cells[i], thing)]
    wishes = [value for _, value in thing.after]
    for kinds in (("colour", "texture", "size"), ("colour", "texture"), ("colour",), ()):
        asked = {kind: thing.before[kind] for kind in kinds if kind in thing.before}
        if scene.style not in ("flat", "mosaic"):
            asked.pop("colour", None)
        fit = [i for i in cells if all(getattr(scene.cells[i], k, v) == v for k, v in asked.items())]
        fit = [i for i in fit if any(fits(i, place) for place in thing.places)] or fit
        if len(fit) > 1:
            # Of two that fit, the one for which the wish is no fact yet.
            fit = [i for i in fit if wishes and not _has(scene.cells[i], wishes)] or fit
        if len(fit) == 1:
            return fit[0]
        if fit or (thing.noun == "thing" and not asked):
            return None
    return None


def _has(thing: Thing | None, values: Sequence[str]) -> bool:
    return isinstance(thing, Item) and any(value in (thing.colour, thing.texture, thing.size) for value in values)


def _is_kind(thing: Thing | None, said: Mention) -> bool:
    if said.noun == "person":
        return isinstance(thing, Face)
    return isinstance(thing, Item) and said.noun in (thing.shape, "thing", "things")


def _ref(scene: Scene, place: int) -> str:
    """Words of the grammar that single out the thing at a place."""
    thing = scene.cells[place]
    if not isinstance(thing, Item):
        return "the person"
    alone = sum(isinstance(other, Item) and other.shape == thing.shape for other in scene.cells) == 1
    return f"the {thing.shape}" if alone else f"the {thing.shape} at the {PLACES[place]}"
