"""Instructions of inverse edits by template, where a person would write the same.

The functions return None for what they do not understand for certain; a VLM can write that instruction.
"""

from __future__ import annotations

import re

_POLITE = re.compile(r"^(?:please|(?:can|could|would) you(?: please)?|let's|let us)[ ,]+", re.IGNORECASE)
_ADD = re.compile(r"^(?:add|insert|include|introduce|place|put|draw|paint)(?: in)? (?P<rest>.+)$", re.IGNORECASE)
_GIVE = re.compile(r"^give (?P<who>(?:the|his|her|its|their)(?: \w+){1,3}?) (?P<rest>(?:an?|some) .+)$", re.IGNORECASE)
_WEAR = re.compile(
    r"^(?:make|let|have) (?P<who>(?:the)(?: \w+){1,3}?) (?:wear|wearing) (?P<rest>(?:an?|some) .+|\w+s)$", re.IGNORECASE
)
_NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|2|3|4|5|6|7|8|9|10"
_DETERMINED = re.compile(rf"^(?:an?|some|several|(?:a )?few|the|{_NUMBERS}) ", re.IGNORECASE)
_PLURAL = re.compile(r"^(?:[a-z]+ ){0,2}[a-z]{2,}[^\Ws]s(?= |$)")
# Additions with no single removable object: an effect ("a touch of warmth"), or one more of several ("another dog").
_NO_THING = re.compile(
    r"^(?:an? |some |the )?(?:\w+ ){0,2}?(?:touch|hint|bit|sense|splash|dash|pop|layer|effects?|filter|tint|tone|feel|"
    r"feeling|look|mood|atmosphere|style|vibe|texture|blur|contrast|colou?rs?|saturation|brightness|warmth|depth|"
    r"details?|focus|border|frame|background|variety|lot|text|caption|words?|more|another|extra|additional|other|"
    r"similar|same|second|third)\b",
    re.IGNORECASE,
)
# Two edits in one sentence, or a clause that is no part of the object.
_MORE_THAN_ONE = re.compile(
    r"[.;:!?\"]|,|\b(?:then|also|so|such that|instead|as if|while|because|but|it|them|they|who|which|that|more|another|"
    r"behind it|like|"
    r"(?:and|or) (?:add|insert|remove|delete|make|change|turn|replace|put|place|give|let|have|set|move|draw|paint|"
    r"blur))\b",
    re.IGNORECASE,
)
_WHOLE_PICTURE = re.compile(
    r" (?:to|in|into|onto|on) (?:the|this) (?:image|picture|photo|photograph|scene)$", re.IGNORECASE
)
_GOAL = re.compile(
    r" (?:into|onto|to)(?= (?:the|his|her|its|their|each|both|one|him|me|us)\b)(?! the (?:left|right)\b)", re.IGNORECASE
)
# After these words, "to" describes the object itself, not the place where it is added.
_KEEPS_TO = re.compile(
    r"\b(?:next|close|adjacent|opposite|parallel|attached|connected|tied|pinned|glued|leading|pointing|walking|running|"
    r"talking|speaking|listening|waving|flying|going|heading|clinging|driving) to\b",
    re.IGNORECASE,
)
_ING = re.compile(r"(\w+(?:ing|ed)s?) (?:into|onto|to) ", re.IGNORECASE)
_ING_NOUNS = re.compile(
    r"(?:building|painting|ring|earring|string|wing|king|ceiling|railing|awning|swing|bed|shed|sled|seed|weed|reed)s?",
    re.IGNORECASE,
)
_MAPS = {
    "depth": "depth map",
    "canny": "edge map",
    "edge": "edge map",
    "edges": "edge map",
    "hed": "edge map",
    "pose": "pose map",
    "segmentation": "segmentation map",
    "scribble": "scribble",
    "sketch": "line sketch",
}
_NO_PHOTOGRAPH = re.compile(
    r"\b(?:paint\w*|draw\w*|sketch\w*|illustrat\w*|cartoon\w*|comic\w*|anime|manga|render\w*|3d|art|artwork|poster|"
    r"logo|icon|engraving|watercolou?r|statue|pixel\w*|clip ?art|screenshot|diagram)\b",
    re.IGNORECASE,
)
_NOUN_PHRASE = re.compile(r"^(?:an?|the|two|three|four|five|some|several|many) [^.;:!?]+$", re.IGNORECASE)
MAX_WORDS = 16
"""Longest phrase, in words, that is copied: longer ones contain clauses that no template understands."""
MAX_CAPTION_WORDS = 24


def removal_of(instruction: str) -> str | None:
    """ "Remove X" for an instruction that adds X; None if it is not certain which words are the object X."""
    text = " ".join(instruction.split()).rstrip(".!? ")
    text = _POLITE.sub("", text)
    where = ""
    for pattern in (_ADD, _GIVE, _WEAR):
        match = pattern.match(text)
        if match is not None:
            where = f" from {match['who']}" if pattern is not _ADD else ""
            break
    else:
        return None
    phrase = _WHOLE_PICTURE.sub("", match["rest"])
    if _MORE_THAN_ONE.search(phrase) or _NO_THING.match(phrase) or len(phrase.split()) > MAX_WORDS:
        return None
    # "Put the cup on the table" moves a cup that is in the picture already.
    if phrase.lower().startswith("the ") and not re.match(r"(?:add|insert|include)\b", text, re.IGNORECASE):
        return None
    if not _DETERMINED.match(phrase) and not _PLURAL.match(phrase):
        return None
    if not _KEEPS_TO.search(phrase):
        goals, doing = _GOAL.findall(phrase), _ING.search(phrase)
        if len(goals) > 1 or (where and goals) or (doing and not _ING_NOUNS.fullmatch(doing[1])):
            return None
        phrase = _GOAL.sub(" from", phrase)
    return f"Remove {_definite(phrase)}{where}."


def photograph_of(caption: str | None) -> str | None:
    """ "Turn this picture into a photograph of CAPTION"; None if the caption says that the source is no photograph."""
    caption = " ".join((caption or "").split()).rstrip(". ")
    if _NO_PHOTOGRAPH.search(caption):
        return None
    caption = re.sub(r"^(?:an? |the )?(?:photo|photograph|picture|image) of ", "", caption, flags=re.IGNORECASE)
    if _NOUN_PHRASE.match(caption) and len(caption.split()) <= MAX_CAPTION_WORDS:
        return f"Turn this picture into a photograph of {caption[0].lower()}{caption[1:]}."
    return "Turn this picture into a photograph."


def map_of(native_task: str) -> tuple[str, str] | None:
    """(KIND, "Draw the KIND of this picture.") for a task that makes a picture from a map; None for unknown maps."""
    kind = _MAPS.get(re.split(r"[\s_-]+(?:to|2)[\s_-]+|2|[\s_-]+", native_task.strip().lower())[0])
    return None if kind is None else (kind, f"Draw the {kind} of this picture.")


def _definite(phrase: str) -> str:
    """The phrase with a definite article: "a dog" becomes "the dog"."""
    words = re.sub(r"^(?:a few|an?|some|several|few) ", "", phrase, flags=re.IGNORECASE)
    words = re.sub(r"\band (?:an?|some) ", "and the ", words)
    return words if words.lower().startswith("the ") else f"the {words}"
