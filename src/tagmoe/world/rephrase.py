"""Rephrase a loosely worded instruction on a TagWorld picture in TagWorld's grammar, without access to the truth.

The words tell which kind of change is meant. The picture, read by the oracle, tells which thing is meant. If that stays
unclear, `rephrase` returns no text instead of a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tagmoe.tags import TaskDescriptor

from . import scene as world
from .instructions import LIGHT_PHRASES, PLURALS, STYLE_PHRASES, background_phrase, caption, thing_phrase
from .lexicon import normal_words
from .oracle import read
from .rules import Picture, rule_tags
from .scene import PLACES, Background, Face, Item, Scene, Thing

_EMPTY = Scene((None, None, None, None))
_SHAPE_OF = {plural: shape for shape, plural in PLURALS.items()}
_WORN = ("sunglasses", "hat")
_PLACE_WORDS = {"height": ("top", "bottom"), "side": ("left", "right")}


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
    words = Words(normal_words(instruction))
    scene = read(pictures[0]).scene if pictures else None
    for text in _readings(words, scene, has_picture=bool(pictures)):
        # Read the text back by the rules, so that only texts of the grammar are returned.
        found = rule_tags(text, pictures)
        if found.task is not None:
            return Rephrased(text, found.task, found.descriptor, f"read as the task {found.task}")
    return Rephrased(None, None, None, "the words and the picture do not tell which task of the grammar is meant")


class Words:
    """The words of an instruction, sorted by what they can name."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.set = frozenset(words)
        self.placed = _placed(words)
        self.places = list(self.placed.values())
        self.pattern = self.one(world.PATTERNS)
        self.shapes = [word for word in words if word in world.SHAPES]
        self.groups = [word for word in words if word in _SHAPE_OF]
        at_hat = {i for i, word in enumerate(words[1:]) if word == "hat"}
        sky = {i for i, word in enumerate(words) if word == "blue" and i and words[i - 1] == "sky"}
        found = [i for i, word in enumerate(words) if word in world.COLOURS and i not in sky]
        self.colours = [words[i] for i in found if i not in at_hat]
        self.hats = [words[i] for i in found if i in at_hat]
        # White counts only if the words mention a background.
        ground = self.one(("grey", "sand", "mint", "pink")) or self.one(["white"] if self.any("background") else [])
        self.ground = "sky blue" if sky else ground

    def any(self, *words: str) -> bool:
        return not self.set.isdisjoint(words)

    def one(self, options: Sequence[str]) -> str | None:
        """The only option among the words; None if there is none or several."""
        said = [option for option in options if option in self.set]
        return said[0] if len(said) == 1 else None


def _placed(words: Sequence[str]) -> dict[int, str]:
    """Each place at the number of the word that completes it. A place is a height and a side, in either order."""
    found: dict[int, str] = {}
    said: dict[str, str] = {}
    for i, word in enumerate(words):
        said |= {kind: word for kind, options in _PLACE_WORDS.items() if word in options}
        if len(said) == 2:
            found[i] = f"{said['height']} {said['side']}"
            said = {}
    return found


# Which task -----------------------------------------------------------------------------------------------------


def _readings(words: Words, scene: Scene | None, *, has_picture: bool) -> Iterator[str]:
    """Instructions of the grammar that the words can stand for, the most certain first."""
    if not has_picture:
        yield from (f"draw {text}" for text in _scenes(words))
        return
    if words.any("map"):
        yield from (f"draw {text} from this map" for text in _scenes(words, places=False))
    if scene is None:
        return
    has_things = bool(words.shapes or words.groups)
    if words.any("behind") and not has_things:
        yield "show this from behind"
    if words.any("style") and has_things:
        yield from (f"draw {text} in this style" for text in _scenes(words, style=False))
    if not has_things:
        yield from _whole_picture(words, scene)
    if words.groups or words.any("everything", "all", "things"):
        yield from _several(words, scene)
    yield from _person(words, scene)
    yield from _one_thing(words, scene)


def _whole_picture(words: Words, scene: Scene) -> Iterator[str]:
    if words.ground and len(words.places) == 1 and len(scene.occupied) == 1:
        kind = "person" if scene.face is not None else "thing"
        ground = background_phrase(Background(words.ground, words.pattern or "plain"))
        yield f"put this {kind} at the {words.places[0]} on {ground}"
    if words.any("flat") or (words.any("style") and words.any("remove", "back")):
        yield "turn this into a flat picture"
    light = words.one([light for light in world.LIGHTS if light != "day"])
    if light:
        yield f"show this {LIGHT_PHRASES[light]}"
    if words.any("daylight"):
        yield "show this in daylight"
    style = words.one(world.STYLES[1:])
    if style and not words.any("person", *_WORN):
        yield f"turn this into {STYLE_PHRASES[style]}"
    if words.ground:
        if words.pattern:
            whole = background_phrase(Background(words.ground, words.pattern), say_plain=True)
            yield f"change the background to {whole}"
        yield f"make the background {words.ground}"
    elif words.pattern and not words.places and (words.pattern != "plain" or words.any("background")):
        yield f"make the background {words.pattern}"


def _several(words: Words, scene: Scene) -> Iterator[str]:
    """Changes of a group: all things of a shape or of a colour, or everything."""
    colours = list(dict.fromkeys(words.colours))
    items = [thing for thing in scene.cells if isinstance(thing, Item)]
    shape = _SHAPE_OF[words.groups[0]] if words.groups else words.shapes[0] if words.shapes else None
    group = PLURALS[shape] if shape else None
    left = colours
    if group is None:
        # Of two colours, the one that several things have names the group.
        shared = [c for c in colours if sum(item.colour == c for item in items) > 1]
        if shared and (len(colours) > 1 or words.any("remove")):
            group = f"{shared[0]} things"
            left = [colour for colour in colours if colour != shared[0]]
    if words.any("remove"):
        if group:
            yield f"remove all the {group}"
    elif len(left) == 1:
        yield f"make all the {group} {left[0]}" if group else f"make everything {left[0]}"


def _person(words: Words, scene: Scene) -> Iterator[str]:
    """Changes of the person in the picture."""
    if scene.face is None or words.any("skin") or words.shapes:
        return
    look, hair = words.one(world.EXPRESSIONS), words.one(world.HAIRS)
    worn = words.one(_WORN)
    if look:
        yield f"make the person {look}"
    if hair and not words.any("background"):
        yield f"make the hair {hair}"
    if worn and words.any("remove"):
        yield f"take off the {worn}"
    elif worn == "sunglasses":
        yield "make the person wear sunglasses"
    elif worn == "hat" and len(words.hats) == 1:
        yield f"make the person wear a {words.hats[0]} hat"
    elif worn == "hat" and words.colours:
        yield f"make the person wear a {words.colours[0]} hat"


def _one_thing(words: Words, scene: Scene) -> Iterator[str]:
    """Changes of one thing or of two."""
    new = _new_things(words)
    if words.any("add") and len(new) == 1 and len(words.places) == 1:
        yield f"add {thing_phrase(new[0])} at the {words.places[0]}"
    mentioned = [(said, _find(scene, said)) for said in _said(words)]
    if len(mentioned) == 2:
        (first, at), (second, other) = mentioned
        if at is not None and other is not None and at != other and words.any("swap", "replace", "move"):
            yield f"swap {_ref(scene, at)} and {_ref(scene, other)}"
        for place, wanted in ((at, second), (other, first)):
            if place is not None and wanted.shape and isinstance(scene.cells[place], Item):
                new_thing = thing_phrase(Item(wanted.shape, wanted.colour)) if wanted.colour else f"a {wanted.shape}"
                yield f"replace {_ref(scene, place)} with {new_thing}"
    if len(mentioned) <= 1:
        yield from _changed(words, scene)
    if len(new) == 1 and len(words.places) == 1:
        yield f"add {thing_phrase(new[0])} at the {words.places[0]}"


def _changed(words: Words, scene: Scene) -> Iterator[str]:
    """Changes of the only thing that the words mention."""
    shape = words.shapes[0] if words.shapes else None
    kind = "person" if words.any("person") and not shape else None
    goals = [place for place in words.places if scene.cells[PLACES.index(place)] is None]
    held = [place for place in words.places if place not in goals]
    where = held[0] if len(held) == 1 else None
    colours = list(dict.fromkeys(words.colours))
    for said in [*colours, None] if len(colours) < 2 else colours:
        left = [colour for colour in colours if colour != said]
        place = _find(scene, _Said(shape, said, where, kind))
        if place is None or (shape is None and kind is None and where is None):
            continue
        ref, thing = _ref(scene, place), scene.cells[place]
        if words.any("remove"):
            yield f"remove {ref}"
        if len(goals) == 1:
            yield f"move {ref} to the {goals[0]}"
        if not isinstance(thing, Item):
            continue
        size, texture = words.one(world.SIZES), words.one(world.TEXTURES)
        if len(left) == 1 and not size and not texture:
            yield f"make {ref} {left[0]}"
        if texture and texture != thing.texture:
            yield f"make {ref} {texture}"
        if size and size != thing.size:
            yield f"make {ref} {size}"


# Things in the words --------------------------------------------------------------------------------------------


_ADJECTIVES = {"colour": world.COLOURS, "texture": world.TEXTURES, "size": world.SIZES}


@dataclass(frozen=True)
class _Said:
    """A thing as the words describe it; None for what they do not say."""

    shape: str | None = None
    colour: str | None = None
    place: str | None = None
    kind: str | None = None
    texture: str | None = None
    size: str | None = None


def _said(words: Words) -> list[_Said]:
    """The things in the order of the words. Adjectives before a noun belong to it, and so does a place after it."""
    things: list[_Said] = []
    before: dict[str, str] = {}
    for i, word in enumerate(words.words):
        kinds = [kind for kind, options in _ADJECTIVES.items() if word in options]
        before |= {kind: word for kind in kinds if (kind, words.words[i - 1 : i]) != ("colour", ["sky"])}
        if word in world.SHAPES or word in ("thing", "person"):
            things.append(_Said(**before, **{"shape" if word in world.SHAPES else "kind": word}))
            before = {}
        place = words.placed.get(i)
        if place and things and things[-1].place is None and not before:
            things[-1] = replace(things[-1], place=place)
        elif place:
            before["place"] = place
    return things


def _find(scene: Scene, said: _Said) -> int | None:
    """The place of the only thing that fits the words. Colours count only in flat style, which shows them."""
    there = [place for place in scene.occupied if said.place in (None, PLACES[place])]
    fits = [place for place in there if _fits(scene.cells[place], said, coloured=scene.style == "flat")]
    return fits[0] if len(fits) == 1 else None


def _fits(thing: Thing | None, said: _Said, *, coloured: bool) -> bool:
    if isinstance(thing, Item):
        colour = said.colour in (None, thing.colour) or not coloured
        return colour and said.kind != "person" and said.shape in (None, thing.shape)
    return said.shape is None and said.colour is None and said.kind != "thing"


def _ref(scene: Scene, place: int) -> str:
    """Words of the grammar that single out the thing at a place."""
    thing = scene.cells[place]
    if not isinstance(thing, Item):
        return "the person"
    alone = sum(isinstance(other, Item) and other.shape == thing.shape for other in scene.cells) == 1
    return f"the {thing.shape}" if alone else f"the {thing.shape} at the {PLACES[place]}"


def _new_things(words: Words) -> list[Thing]:
    """Things described as fully as new ones must be: items with shape and colour, or a person with skin and hair."""
    face = _new_face(words)
    if face is not None:
        return [face]
    return [item for said in _said(words) if (item := _item(said)) is not None]


def _item(said: _Said) -> Item | None:
    if said.shape is None or said.colour is None:
        return None
    return Item(said.shape, said.colour, said.texture or "plain", said.size or "large")


def _new_face(words: Words) -> Face | None:
    look, hair = words.one(world.EXPRESSIONS), words.one(world.HAIRS)
    skin = words.one(world.SKINS)
    if not words.any("skin") or look is None or hair is None or skin is None:
        return None
    hat = words.hats[0] if words.hats else None
    return Face(skin, hair, "sunglasses" in words.set, hat, look)


def _scenes(words: Words, *, places: bool = True, style: bool = True) -> Iterator[str]:
    """The caption of the picture that the words describe, if they describe all its things in full."""
    face = _new_face(words)
    said = [_Said(place=place) for place in words.places[:1]] if face else _said(words)
    things: list[Thing | None] = [face] if face else [_item(one) for one in said]
    if not things or None in things or len(things) > len(PLACES):
        return
    where = [PLACES.index(one.place) if one.place else None for one in said] if places else list(range(len(things)))
    if None in where or len(set(where)) != len(things):
        return
    scene = _EMPTY.put(*((place, thing) for place, thing in zip(where, things, strict=True) if place is not None))
    if words.ground:
        pattern = words.pattern if words.pattern in world.PATTERNS[1:] else "plain"
        scene = replace(scene, background=Background(words.ground, pattern or "plain"))
    if style:
        scene = replace(scene, style=words.one(world.STYLES[1:]) or "flat")
    light = words.one([light for light in world.LIGHTS if light != "day"])
    text, _ = caption(replace(scene, light=light or "day"), places=places, style=style)
    yield text if places else text.replace("small ", "")
