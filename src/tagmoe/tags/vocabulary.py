"""The vocabulary V of atomic tags (paper section 3.2 and 3.3.1): the only place where tag strings are defined.

The order is that of the authors' release, so row i of their tag embedding is tag i here. The tiers and the definitions
are ours, read off the names: the release has neither.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, get_args

from tagmoe.errors import VocabularyError

Tier = Literal["scope", "type", "preservation", "generation"]
TIERS: tuple[Tier, ...] = get_args(Tier)


@dataclass(frozen=True)
class Tag:
    """One atomic tag: its row in W_tag (Eq. 2), its name, its tier, and a definition fit for people and for a VLM."""

    index: int
    name: str
    tier: Tier
    definition: str


_TABLE: tuple[tuple[Tier, str, str], ...] = (
    ("scope", "local editing", "One connected region of the picture changes and everything outside it stays."),
    ("scope", "global editing", "The whole picture, or everything behind its subject, changes."),
    ("scope", "multi region editing", "Two or more separate regions of the picture change."),
    ("scope", "viewpoint editing", "The same scene is shown from another camera position or distance."),
    ("scope", "content customization", "A subject taken from a reference picture appears in a new scene."),
    ("scope", "style customization", "A new picture is made in the style of a reference picture."),
    ("type", "object editing", "An object or accessory is added, removed, replaced or moved."),
    ("type", "attribute editing", "A thing keeps its kind and place but gets another colour, material, size or look."),
    ("type", "style transfer", "The picture takes on another artistic style or medium."),
    ("type", "pose editing", "A person, face or animal takes another pose, gesture or expression."),
    ("type", "background editing", "What lies behind the subject is replaced or changed."),
    ("type", "illumination editing", "The light changes: time of day, weather, direction, colour or strength."),
    ("preservation", "structure preservation", "Layout, outlines and geometry stay where they are."),
    ("preservation", "background preservation", "What lies behind the subject stays as it is."),
    ("preservation", "identity preservation", "The subject remains recognisably the same individual or object."),
    ("preservation", "face preservation", "A visible face keeps its features."),
    ("preservation", "style preservation", "The artistic style stays that of the source or of the reference."),
    ("generation", "image generation", "A picture is made from text or from a control map; no source is edited."),
)

TAGS: tuple[Tag, ...] = tuple(Tag(index, name, tier, text) for index, (tier, name, text) in enumerate(_TABLE))
TAG_NAMES: tuple[str, ...] = tuple(tag.name for tag in TAGS)
_BY_NAME = {tag.name: tag for tag in TAGS}


def normalise(name: str) -> str:
    """The spelling used for lookup: lower case, and one space for any run of blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def tag(name: str) -> Tag:
    """The tag of this name; case, spacing, hyphens and underscores do not matter.

    Raises VocabularyError for an unknown name; the message suggests the closest known ones.
    """
    found = _BY_NAME.get(normalise(name))
    if found is None:
        close = difflib.get_close_matches(normalise(name), TAG_NAMES, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(repr(item) for item in close)}? " if close else ""
        raise VocabularyError(f'{name!r} is not a tag: {hint}Run "tagmoe info tags" to see all {len(TAGS)}.')
    return found


def index(name: str) -> int:
    """The row of this tag in W_tag (Eq. 2). Raises VocabularyError for an unknown name."""
    return tag(name).index
