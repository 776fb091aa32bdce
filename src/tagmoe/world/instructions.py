"""The English of TagWorld: noun phrases, references, captions, and the filled-in templates."""

from __future__ import annotations

import string

from . import scene as world
from .dice import Dice
from .scene import PLACES, Background, Face, Item, Scene, Thing
from .templates import TEMPLATES

MAX_WORDS = 22
STYLE_PHRASES = {
    "flat": "a flat picture",
    "sketch": "a pencil sketch",
    "mosaic": "a mosaic",
    "sepia": "an old photo",
    "negative": "a negative",
}
LIGHT_PHRASES = {"day": "in daylight", "night": "at night", "sunset": "at sunset", "fog": "in fog"}
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "cross": "crosses",
}

Slots = dict[str, str]


def item_phrase(item: Item) -> str:
    """Words for a new item. A plain texture and a large size are not said."""
    size = "small " if item.size == "small" else ""
    texture = "" if item.texture == "plain" else f"{item.texture} "
    words = f"{size}{texture}{item.colour} {item.shape}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def face_phrase(face: Face) -> str:
    """Words for a new person. Missing sunglasses and a missing hat are not said."""
    parts = [f"{face.skin} skin", f"{face.hair} hair"]
    parts += ["sunglasses"] if face.glasses else []
    parts += [f"a {face.hat} hat"] if face.hat else []
    return f"a {face.expression} person with {', '.join(parts[:-1])} and {parts[-1]}"


def thing_phrase(thing: Thing) -> str:
    return item_phrase(thing) if isinstance(thing, Item) else face_phrase(thing)


def thing_slots(key: str, thing: Thing) -> Slots:
    """The facts that `thing_phrase` states."""
    if isinstance(thing, Face):
        said = {"kind": "person", "skin": thing.skin, "hair": thing.hair, "expression": thing.expression}
        unsaid = {"glasses": "sunglasses" if thing.glasses else None, "hat": thing.hat}
    else:
        said = {"shape": thing.shape, "colour": thing.colour}
        unsaid = {"texture": thing.texture.replace("plain", ""), "size": thing.size.replace("large", "")}
    return {f"{key}.{name}": value for name, value in {**said, **unsaid}.items() if value}


def background_phrase(background: Background, *, say_plain: bool = False) -> str:
    pattern = "" if background.pattern == "plain" and not say_plain else f"{background.pattern} "
    return f"a {background.colour} {pattern}background"


def background_slots(background: Background, *, say_plain: bool = False) -> Slots:
    slots = {"background.colour": background.colour}
    if background.pattern != "plain" or say_plain:
        slots["background.pattern"] = background.pattern
    return slots


def refer(dice: Dice, scene: Scene, place: int, key: str = "ref") -> tuple[str, Slots]:
    """Words that single out the thing at a place, by what it is or by where it is; colours only in flat style."""
    thing = scene.cells[place]
    where = PLACES[place]
    if isinstance(thing, Face):
        return "the person", {f"{key}.kind": "person"}
    if not isinstance(thing, Item):
        raise ValueError(f"The {where} of the scene is empty.")
    others = [t for t in scene.cells if isinstance(t, Item) and t is not thing]
    same_shape = [t for t in others if t.shape == thing.shape]
    options: list[tuple[str, Slots]] = [
        (f"the {thing.shape} at the {where}", {"shape": thing.shape, "place": where}),
        (f"the thing at the {where}", {"kind": "thing", "place": where}),
    ]
    if not same_shape:
        options = [(f"the {thing.shape}", {"shape": thing.shape}), *options[:1]]
    if scene.style == "flat" and not any(t.colour == thing.colour for t in same_shape):
        options.append((f"the {thing.colour} {thing.shape}", {"shape": thing.shape, "colour": thing.colour}))
    text, slots = dice.pick(options)
    return text, {f"{key}.{name}": value for name, value in slots.items()}


def caption(scene: Scene, *, places: bool = True, style: bool = True) -> tuple[str, Slots]:
    """A scene in words. A white plain background, flat style and daylight are not said."""
    parts: list[str] = []
    slots: Slots = {}
    for key, place in zip("abcd", scene.occupied, strict=False):
        thing = scene.cells[place]
        assert thing is not None
        parts.append(thing_phrase(thing) + (f" at the {PLACES[place]}" if places else ""))
        slots |= thing_slots(key, thing)
        if places:
            slots[f"{key}.place"] = PLACES[place]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    if scene.background != Background():
        text += f" on {background_phrase(scene.background)}"
        slots |= background_slots(scene.background)
    if style and scene.style != "flat":
        text += f" as {STYLE_PHRASES[scene.style]}"
        slots["style"] = scene.style
    if scene.light != "day":
        text += f" {LIGHT_PHRASES[scene.light]}"
        slots["light"] = scene.light
    return text, slots


def phrase(dice: Dice, key: str, values: dict[str, str], *, held_out: bool) -> str:
    """Fill one of a key's templates that stay within MAX_WORDS, or the shortest one when none does."""
    templates = TEMPLATES[key].held_out if held_out else TEMPLATES[key].train
    text = dice.pick(templates).format_map(values)
    if text.count(" ") < MAX_WORDS:
        return text
    texts = sorted((template.format_map(values) for template in templates), key=lambda t: t.count(" "))
    return dice.pick([t for t in texts if t.count(" ") < MAX_WORDS] or texts[:1])


def words() -> frozenset[str]:
    """Every word that an instruction can hold, in training and in test."""
    texts = [t for group in TEMPLATES.values() for t in (*group.train, *group.held_out)]
    plain = [literal for text in texts for literal, *_ in string.Formatter().parse(text)]
    phrases = [
        item_phrase(Item("star", "orange", "plain", "small")),
        item_phrase(Item("star", "orange")),
        face_phrase(Face("tan", "black", True, "red", "sad")),
        background_phrase(Background()),
        "the thing at",
    ]
    values = (
        world.SHAPES,
        world.COLOURS,
        world.TEXTURES,
        world.SKINS,
        world.HAIRS,
        world.HATS,
        world.EXPRESSIONS,
        world.BACKGROUNDS,
        world.PATTERNS,
        PLACES,
        PLURALS.values(),
        STYLE_PHRASES.values(),
        LIGHT_PHRASES.values(),
        ("things", "hat", "on", "in"),
    )
    every = [*plain, *phrases, *(value for group in values for value in group)]
    return frozenset(word.strip(",") for text in every for word in text.split() if word.strip(","))
