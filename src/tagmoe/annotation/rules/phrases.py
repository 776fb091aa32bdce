"""Noun phrases: the head, what describes it, and the people who stay in the picture."""

from __future__ import annotations

from typing import NamedTuple

from tagmoe.annotation.rules.patterns import packaged_patterns


class Phrase(NamedTuple):
    """A noun phrase. head: up to its noun, "the man". tail: what describes it, "standing next to the car"."""

    head: str
    tail: str

    @property
    def is_person(self) -> bool:
        """Whether the noun is a person; "the man's hat" and "the baby carriage" are none."""
        return _has("person_last", self.head)

    @property
    def is_whole(self) -> bool:
        """Whether it is the picture as a whole: "it", "the photo", "the portrait of the girl"."""
        return _has("whole_head", self.head) and (not self.tail or self.tail.startswith("of "))


def phrase(text: str) -> Phrase:
    """The phrase with which a text begins."""
    found = packaged_patterns()["noun_phrase"].search(text.strip())
    if found is None:
        return Phrase(text.strip(), "")
    return Phrase(found["head"], text.strip()[found.end("head") :].strip(" ,"))


def person_stays(text: str) -> bool:
    """Whether a text names a person who is in the picture, a part of a face, or what a face wears."""
    return _has("people_or_face", text) or (_has("face_words", text) and not _has("animals", text))


def person_beside(tail: str) -> bool:
    """Whether the description of a thing or a person names another person by a place: "behind the couple"."""
    return _has("beside_person", tail)


def person_stays_without(gone: Phrase) -> bool:
    """Whether somebody stays when this is taken away, or when this is new."""
    if gone.is_person:
        return person_beside(gone.tail)
    if _has("depiction", gone.head):
        # The person is on a picture in the picture.
        return _has("owner", gone.head)
    known = _has("owner", gone.head) or _has("known_person", gone.tail) or person_beside(gone.tail)
    # Headwear implies a face, unless it is an animal's or lies elsewhere.
    worn = _has("face_words", gone.head) and not _has("animals", f"{gone.head} {gone.tail}")
    return known or (worn and (not gone.tail or _has("on_person", gone.tail)))


def _has(name: str, text: str) -> bool:
    return packaged_patterns()[name].search(text) is not None
