"""Synonyms of TagWorld's words, and the nearest known word for a misspelled one."""

from __future__ import annotations

import difflib
import re
from functools import cache

from .instructions import words

# Phrases that mean one word. They are replaced before single words are.
PHRASES = {
    "get rid of": "remove",
    "rid of": "remove",
    "take away": "remove",
    "take off": "remove",
    "cut out": "remove",
    "in place of": "replace",
    "instead of": "replace",
    "change places": "swap",
    "trade places": "swap",
    "light blue": "sky blue",
    "baby blue": "sky blue",
    "pale blue": "sky blue",
    "pencil drawing": "sketch",
    "pencil sketch": "sketch",
    "old photograph": "sepia",
    "old photo": "sepia",
    "old picture": "sepia",
    "back side": "behind",
    "other side": "behind",
    "the back": "behind",
    "dark glasses": "sunglasses",
    "sun glasses": "sunglasses",
    "polka dot": "dotted",
    "night time": "night",
    "day time": "daylight",
    "day light": "daylight",
    "sun set": "sunset",
    "every thing": "everything",
    "red head": "ginger",
}
_OWN = {
    "remove": "delete erase clear drop wipe scrap discard eliminate hide lose kill trash rid without minus no off away",
    "add": "insert include append create new",
    "replace": "substitute exchange become becomes convert transform",
    "move": "shift bring slide drag push relocate carry transfer",
    "swap": "switch trade interchange",
    "small": "smaller tiny little littler mini shrink reduce minimise minimize shorten",
    "large": "larger big bigger huge giant grow enlarge expand maximise maximize",
    "circle": "disc disk ball round dot ring",
    "square": "box block rectangle",
    "triangle": "pyramid wedge",
    "star": "asterisk",
    "heart": "love",
    "cross": "plus",
    "red": "crimson scarlet ruby",
    "orange": "tangerine",
    "yellow": "gold golden lemon",
    "green": "emerald lime",
    "blue": "navy azure",
    "purple": "violet lilac magenta",
    "grey": "gray silver",
    "sand": "beige sandy",
    "pink": "rose",
    "mint": "minty",
    "striped": "stripy stripes stripey",
    "dotted": "spotted spotty dots",
    "plain": "solid unpatterned",
    "checked": "checkered chequered checks checker",
    "lined": "ruled lines",
    "person": "man woman guy girl boy face human lady somebody someone he she him her",
    "thing": "object shape item element",
    "things": "objects shapes items elements",
    "smiling": "happy smile cheerful glad laughing grinning joyful",
    "sad": "unhappy frowning frown crying sorrowful",
    "surprised": "shocked astonished amazed surprise",
    "sunglasses": "shades glasses spectacles",
    "hat": "cap beanie",
    "blond": "blonde fair",
    "ginger": "redhead redhaired",
    "dark": "brown",
    "tan": "tanned",
    "background": "backdrop ground wallpaper",
    "sketch": "drawing pencil sketched",
    "sepia": "photo photograph vintage",
    "mosaic": "tiles tiled",
    "negative": "inverted invert",
    "flat": "normal unstyled",
    "night": "nighttime midnight evening",
    "sunset": "dusk sundown",
    "fog": "mist foggy misty haze",
    "daylight": "day daytime sunshine",
    "behind": "rear reverse backside around",
    "map": "silhouette outline",
    "everything": "",
    "all": "every each both",
    "style": "",
    "top": "upper above",
    "bottom": "lower below",
    "colour": "color",
    "clothes": "",
}
MEANING = {word: own for own, others in _OWN.items() for word in (own, *others.split())}
_LEAST_LETTERS = 4
_CLOSE = 0.75


def normal_words(text: str) -> list[str]:
    """The words of a text, lower case and without punctuation. A known synonym becomes TagWorld's own word.

    Plurals of shapes stay plurals. A word that is neither known nor near a known one stays as it is.
    """
    plain = " ".join(re.findall(r"\w+(?:'\w+)*", text.lower()))
    plain = " ".join(_spelled(word) for word in plain.split())
    for phrase, own in PHRASES.items():
        plain = re.sub(rf"\b{phrase}\b", own, plain)
    return [_meaning(word) for word in plain.split()]


def _meaning(word: str) -> str:
    if word in MEANING:
        return MEANING[word]
    single = {"boxes": "box", "crosses": "cross", "pluses": "plus"}.get(word, word.removesuffix("s"))
    own = MEANING.get(single)
    if own is not None and single != word and own in ("circle", "square", "triangle", "star", "heart", "cross"):
        return f"{own}es" if own == "cross" else f"{own}s"
    return word


@cache
def _known() -> frozenset[str]:
    plurals = {form for word in MEANING for form in (f"{word}s", f"{word}es")}
    parts = {part for phrase in PHRASES for part in phrase.split()}
    return words() | MEANING.keys() | parts | (plurals & {"discs", "disks", "balls", "boxes", "blocks", "pluses"})


def _spelled(word: str) -> str:
    """The word itself if it is known or no known word is close; else the closest known word."""
    if word in _known() or len(word) < _LEAST_LETTERS:
        return word
    close = difflib.get_close_matches(word, sorted(_known()), n=1, cutoff=_CLOSE)
    return close[0] if close else word
