"""What the words of an instruction name: nouns with their attributes and places, and what is said besides.

Reading is shallow on purpose: an adjective before a noun describes it, and other attributes belong to the noun before
them ("the circle should be red") or to the one that a preposition joins them to ("stripes on the circle").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from . import scene as world
from .instructions import PLURALS
from .lexicon import is_known
from .scene import PLACES

Place = tuple[str | None, str | None]
"""A height (top, bottom) and a side (left, right); None for what is not said."""

FLIPPED = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
_SHAPE_OF = {plural: shape for shape, plural in PLURALS.items()}
_HAIR_ONLY = ("black", "blond", "ginger")
_HAIR_OF = {"red": "ginger", "orange": "ginger", "yellow": "blond", "grey": "white", "dark": "black"}
_GROUND_OF = {"green": "mint", "blue": "sky blue", "yellow": "sand", "orange": "sand", "red": "pink", "purple": "pink"}
_ADJECTIVES = {
    "colour": (*world.COLOURS, *world.BACKGROUNDS, *_HAIR_ONLY),
    "texture": ("striped", "dotted", "plain"),
    "pattern": ("checked", "lined"),
    "size": world.SIZES,
    "skin": ("light", "tan", "dark"),
}
_KIND_OF = {word: kind for kind, options in _ADJECTIVES.items() for word in options}
NEW, OLD = "new", "old"
_DETERMINERS = {
    **dict.fromkeys(("a", "an", "another", "one", "some", "two", "new", "extra"), NEW),
    **dict.fromkeys(("the", "this", "that", "these", "those", "his", "her", "its", "their", "same"), OLD),
}
_JOINS = frozenset({"on", "to", "off", "from", "onto", "behind", "of"})
_SIDE_AFTER = frozenset({"the", "on", "its", "to", "far", "at", "their", "over"})
_SIDE_BEFORE = frozenset({"under", "over", "now", "away", "there", "below", "above", "next", "beside"})


@dataclass
class Mention:
    """A noun and what is said of it. noun: a shape, "thing", "things", "everything", "person", "background", "hair",
    "hat", "sunglasses" or "skin". before: attributes that describe it; after: what is said of it besides, in order."""

    noun: str
    at: int
    start: int
    plural: bool = False
    article: str = ""
    before: dict[str, str] = field(default_factory=dict)
    after: list[tuple[str, str]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    @property
    def is_thing(self) -> bool:
        """Whether it names one or several things of the picture."""
        return self.noun in (*world.SHAPES, "thing", "things", "person")

    def said(self, kind: str) -> str | None:
        """The first attribute of a kind that is said of it, before or after the noun."""
        return self.before.get(kind) or next((value for name, value in self.after if name == kind), None)


class Mentions:
    """The nouns of an instruction in order, and what belongs to the background, to hair and to a hat.

    words: the words in TagWorld's spelling (`lexicon.normal_words`).
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.set = frozenset(words)
        self.nouns: list[Mention] = []
        free = self._nouns()
        # "Beige behind them" speaks of the background; "from behind" of the point of view.
        self.grounds: list[str] = []
        self.patterns: list[str] = []
        self.hairs: list[str] = []
        self.loose: list[tuple[str, str]] = []
        self.free_places: list[Place] = []
        self.behind_things = any(word == "behind" and not self._is_view(i) for i, word in enumerate(words))
        self.has_view = any(word == "behind" and self._is_view(i) for i, word in enumerate(words))
        for i, kind, value in free:
            self._attach(i, kind, value)
        for i, place in self._placed():
            self._put(i, place)
        for noun in self.nouns:
            self._collect(noun)

    @property
    def strangers(self) -> list[str]:
        """The nouns that are none of TagWorld: unknown words after an article or an adjective ("a dog")."""
        return [
            word
            for before, word in zip(self.words, self.words[1:], strict=False)
            if (before in _DETERMINERS or before in _KIND_OF) and not is_known(word)
        ]

    def any(self, *words: str) -> bool:
        """Whether one of these words is said."""
        return not self.set.isdisjoint(words)

    def one(self, options: Sequence[str]) -> str | None:
        """The only option among the words; None if there is none or several."""
        said = [option for option in options if option in self.set]
        return said[0] if len(said) == 1 else None

    def of(self, *nouns: str) -> list[Mention]:
        """The mentions of these nouns."""
        return [mention for mention in self.nouns if mention.noun in nouns]

    @property
    def things(self) -> list[Mention]:
        """The mentions of things."""
        return [mention for mention in self.nouns if mention.is_thing]

    # Nouns and their adjectives -----------------------------------------------------------------------------------

    def _nouns(self) -> list[tuple[int, str, str]]:
        """Find the nouns, and return the attributes that stand before none: (number of the word, kind, value)."""
        free: list[tuple[int, str, str]] = []
        waiting: list[tuple[int, str, str]] = []
        article, start = "", 0
        for i, word in enumerate(self.words):
            adjective = self._adjective(i)
            noun = self._noun(i)
            if adjective is not None:
                waiting.append((i, *adjective))
                continue
            if noun is not None:
                before = {kind: value for _, kind, value in waiting}
                # Of two colours in a row, the first is no part of the noun: "make the star red and the blue circle".
                kinds = [kind for _, kind, _ in waiting]
                free += [w for n, w in enumerate(waiting) if w[1] in kinds[n + 1 :]]
                plural = word in _SHAPE_OF or word == "things"
                self.nouns.append(Mention(noun, i, start if article else i - len(waiting), plural, article, before))
                article, waiting = "", []
            elif word in _DETERMINERS:
                free += waiting
                waiting = []
                article, start = _DETERMINERS[word], i
            elif word not in ("and", "of", "sized", "coloured") or not waiting:
                free += waiting
                waiting = []
                article = article if word in ("three", "empty", "whole", "sky") else ""
        return free + waiting

    def _adjective(self, i: int) -> tuple[str, str] | None:
        word = self.words[i]
        after = self.words[i + 1] if i + 1 < len(self.words) else ""
        if word == "sky":
            return None
        if word == "blue" and i and self.words[i - 1] == "sky":
            return "colour", "sky blue"
        if word == "white" and after in ("striped", "dotted", "polka"):
            return None  # the marks of a texture are white
        kind = _KIND_OF.get(word)
        if kind == "colour" and after == "mint":
            return None  # "green mint"
        return None if kind is None else (kind, word)

    def _noun(self, i: int) -> str | None:
        word = self.words[i]
        if word in ("one", "ones"):
            described = i and _KIND_OF.get(self.words[i - 1])
            return self.nouns[-1].noun if described and self.nouns else None
        if word in _SHAPE_OF:
            return _SHAPE_OF[word]
        known = (*world.SHAPES, "thing", "things", "person", "background", "hair", "hat", "sunglasses", "skin")
        return word if word in (*known, "everything") else None

    # Attributes and places that stand by themselves ------------------------------------------------------------------

    def _attach(self, i: int, kind: str, value: str) -> None:
        after = next((noun for noun in self.nouns if noun.at > i), None)
        before = next((noun for noun in reversed(self.nouns) if noun.at < i), None)
        between = [] if after is None else self.words[i + 1 : after.start]
        # "Stripes on the circle" and "stripes on the background", but "a green star on a pink background".
        colour_on_ground = after is not None and after.noun == "background" and kind == "colour"
        joined = len(between) == 1 and between[0] in _JOINS and not colour_on_ground
        on_ground = i > 0 and self.words[i - 1] in ("on", "over", "against")
        is_ground = value in world.BACKGROUNDS and (value != "white" or not self.any("hair", "haired", "dye"))
        by_place = (kind == "colour" and on_ground) or (kind in ("colour", "texture") and self.behind_things)
        if kind == "pattern" or is_ground or by_place:
            self._ground(kind, value)
        elif joined and after is not None:
            after.after.append((kind, value))
        elif (noun := before or after) is not None:
            noun.after.append((kind, value))
        else:
            self.loose.append((kind, value))

    def _ground(self, kind: str, value: str) -> None:
        if kind == "colour":
            self.grounds.append(_GROUND_OF.get(value, value))
        elif value == "tan":
            self.grounds.append("sand")
        elif kind == "pattern":
            self.patterns.append(value)
        elif kind == "texture" and value != "dotted":
            self.patterns.append({"striped": "lined"}.get(value, value))

    def _collect(self, noun: Mention) -> None:
        """Move what belongs to background and hair to their lists."""
        said = [*noun.before.items(), *noun.after]
        if noun.noun == "background":
            for kind, value in said:
                self._ground(kind, value)
        elif noun.noun == "hair":
            self.hairs += [_HAIR_OF.get(value, value) for kind, value in said if kind in ("colour", "skin")]
        else:
            hairs = [value for _, value in said if value in _HAIR_ONLY]
            if noun.noun == "person" and self.any("haired", "dye"):
                hairs += [_HAIR_OF.get(v, v) for k, v in said if k == "colour" and v not in _HAIR_ONLY]
            self.hairs += hairs
            if noun.is_thing and "pattern" in noun.before:
                noun.before.setdefault("texture", {"lined": "striped"}.get(noun.before["pattern"], "plain"))
        if noun.noun not in ("background", "hair"):
            noun.after = [(kind, value) for kind, value in noun.after if value not in _HAIR_ONLY]

    def _is_view(self, i: int) -> bool:
        """Whether "behind" at a place of the words is a point of view, and no preposition."""
        after = self.words[i + 1] if i + 1 < len(self.words) else ""
        joins = {
            "the",
            "them",
            "it",
            "everything",
            "all",
            "her",
            "him",
            "these",
            "those",
            "this",
            "that",
            "both",
            "each",
        }
        from_there = "from" in self.words[max(0, i - 2) : i]
        return from_there or (after not in joins and after not in _SHAPE_OF and after != "person")

    def _placed(self) -> Iterator[tuple[int, Place]]:
        """Each place at the number of the word that completes it: a height and a side close to each other, or one."""
        heights = {i: word for i, word in enumerate(self.words) if word in ("top", "bottom")}
        sides = {i: word for i, word in enumerate(self.words) if word in ("left", "right") and self._is_side(i)}
        used: set[int] = set()
        for i, height in heights.items():
            near = [k for k in sides if abs(k - i) <= 3 and k not in used]
            if near:
                side = min(near, key=lambda k: (abs(k - i), k < i))
                used |= {i, side}
                yield max(i, side), (height, sides[side])
            else:
                yield i, (height, None)
        yield from ((k, (None, side)) for k, side in sides.items() if k not in used)

    def _is_side(self, i: int) -> bool:
        before = self.words[i - 1] if i else ""
        after = self.words[i + 1] if i + 1 < len(self.words) else ""
        close = any(word in ("top", "bottom") for word in self.words[max(0, i - 2) : i + 3])
        return close or (before in _SIDE_AFTER and after not in _SIDE_BEFORE)

    def _put(self, i: int, place: Place) -> None:
        """Give a place to the thing before it; to the one after it where places come first."""
        things = self.things
        before = [noun for noun in things if noun.at < i]
        after = [noun for noun in things if noun.at > i]
        first = not before or (before[-1].places and after and not after[0].places and _complete(before[-1].places[0]))
        if first and after:
            after[0].places.append(place)
        elif before:
            before[-1].places.append(place)
        else:
            self.free_places.append(place)


def _complete(place: Place) -> bool:
    return None not in place


def fits(place: int, said: Place) -> bool:
    """Whether a cell is at the place that is said."""
    height, side = PLACES[place].split()
    return said[0] in (None, height) and said[1] in (None, side)
