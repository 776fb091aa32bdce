"""Checks of a record, as pure functions of its columns and decoded pictures.

Pictures are checked on copies of a few hundred pixels. JPEG files are decoded directly at that size. This still reads
all bytes, so a truncated file is found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tagmoe.data.check.limits import limits_of
from tagmoe.data.check.shift import measure_shift
from tagmoe.data.store.record import PARTIAL
from tagmoe.errors import ImageError
from tagmoe.pictures import TOO_LARGE, load_image, load_mask, open_picture, upright_rgb, upright_size
from tagmoe.sentences import counted
from tagmoe.tags import TAGS, TaskDescriptor, index

VERSION = 3
"""Raise this with every change of what a check finds. Stores with results of another version are checked again."""

CHECKS: dict[str, str] = {
    "undecodable": "a picture is truncated, damaged or no picture",
    "tiny": "a picture has a side of fewer pixels than the limit, by default 64",
    "huge": "a picture has more than 64 megapixels",
    "extreme aspect": "a picture is longer for its width than the limit, by default 4 times",
    "recorded size": "a picture has another size than its record says",
    "single colour": "a picture is of one colour, and not an emptied scene",
    "aspect mismatch": "source and target have aspects that differ by more than encoding can crop",
    "size mismatch": "source and target have different sizes",
    "same bytes": "source and target are one file",
    "same pixels": "source and target are different files with the same pixels",
    "shifted": "the target shows the source's scene, but moved by a pixel or more, and is no other view of it",
    "mask size": "a mask has another aspect than its picture",
    "empty mask": "a mask has no white pixel",
    "no mask": "a mask is a photograph: many of its pixels are neither black nor white",
    "empty instruction": "an instruction has no text",
    "long instruction": "an instruction has more characters than the limit, by default 2,000",
    "unknown tag": "a tag is not in the vocabulary, or given twice",
    "tag rules": "the tags break a rule of the vocabulary",
    "duplicate id": "an earlier record has the same id",
}
"""The checks: name, and what is true of a record if the check finds something."""

TEXT_CHECKS = ("empty instruction", "long instruction", "unknown tag", "tag rules")
"""Checks that read no picture. They are made again with every validation, as annotators set tags later."""
DEFAULTS: dict[str, float | None] = {
    **dict.fromkeys(CHECKS),
    "tiny": 64,
    "extreme aspect": 4.0,
    "aspect mismatch": 0.1,
    "mask size": 0.1,
    "no mask": 0.25,
    "long instruction": 2000,
}
"""The limit of each check, None where it has none. tiny: pixels of the shorter side. extreme aspect: longer side over
shorter. aspect mismatch, mask size: logarithm of the ratio of two aspects; encoding crops the difference. no mask:
share of such pixels. long instruction: characters."""
OFF_BY_DEFAULT = ("size mismatch",)
"""Encoding scales each picture to its bucket, so that other sizes of one aspect are sound."""
FLAT = 2
"""Levels of a channel by which a single-colour picture may vary."""
EMPTIED_SHARE = 0.5
"""If this share of source or target has the single colour of the other, an object was removed: no finding."""
MIN_SHIFT = 0.75
"""Shift in pixels from which a target counts as shifted: one pixel less the error of the measurement."""
MIN_SHIFT_SEEN = 0.3
"""Least shift in pixels of the copy; for large pictures it is the higher limit."""
GREY = (64, 192)
"""Levels between which a pixel of a mask is neither black nor white."""
COLOURFUL = 48
"""Difference of the channels of a pixel from which it has a colour."""
COPY_SIDE = 256
"""The longer side of a copy has at least this many pixels, and less than twice as many."""
_VIEW = index("viewpoint editing")
_SOME = 8  # a quick first look at every 8th pixel of every 8th row tells most pictures apart

COLUMNS = ("instruction", "instructions", "instruction_rewritten", "tags", "tag_provenance", "images", "target")
"""The columns that `examine` reads."""


class Finding(NamedTuple):
    """A check that found something, and what it found."""

    check: str
    detail: str


@dataclass(frozen=True)
class View:
    """An upright picture and its small copy.

    width, height: of the picture, in pixels. copy: (h, w, 3) uint8. factor: width of the picture over that of the copy.
    """

    width: int
    height: int
    copy: np.ndarray
    factor: int

    @property
    def grey(self) -> np.ndarray:
        """(h, w) float32."""
        return self.copy @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Policy:
    """Which checks are made, and with which limits. limits: by check; a check that is not named is off."""

    limits: Mapping[str, float | None]

    @classmethod
    def of(cls, settings: Mapping[str, str] | None = None) -> Policy:
        """The defaults with these settings: a check's limit, `on` or `off`. Raises UsageError for any other."""
        return cls(limits_of(settings, DEFAULTS, OFF_BY_DEFAULT))

    def limit(self, check: str, otherwise: float = math.inf) -> float:
        """The limit of a check, or `otherwise` where it is off."""
        found = self.limits.get(check, otherwise)
        return otherwise if found is None else float(found)

    def kept(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings of the checks that are made."""
        return [finding for finding in findings if finding.check in self.limits]


DEFAULT = Policy.of()


def examine(row: Mapping[str, Any], policy: Policy = DEFAULT) -> list[Finding]:
    """All findings of one record, given as a row with COLUMNS. `validate` finds duplicate ids, over the whole store."""
    return examine_texts(row, policy) + examine_pictures(row, policy)


def examine_texts(row: Mapping[str, Any], policy: Policy = DEFAULT) -> list[Finding]:
    """The findings of TEXT_CHECKS. row: the columns of texts and tags."""
    status = (row["tag_provenance"] or {}).get("status", "")
    longest = policy.limit("long instruction")
    found = text_findings([row["instruction"], *(row["instructions"] or ())], row["instruction_rewritten"], longest)
    return policy.kept(found + tag_findings(row["tags"], partial=status == PARTIAL))


def examine_pictures(row: Mapping[str, Any], policy: Policy = DEFAULT) -> list[Finding]:
    """The findings of the other checks."""
    found: list[Finding] = []
    pictures = [*(row["images"] or ()), {**row["target"], "role": "target"}]
    views: list[View | None] = []
    for picture in pictures:
        view = None
        if picture["role"] != "mask":
            problems, view = picture_findings(picture, policy)
            found += problems
        views.append(view)
    sources = [place for place, item in enumerate(pictures) if item["role"] in ("source", "person")]
    paired = len(sources) == 1
    flat = [view for view in views if view is not None and colour_of(view) is not None]
    if paired:
        source, target = views[sources[0]], views[-1]
        if pictures[sources[0]]["data"] == pictures[-1]["data"]:
            found.append(Finding("same bytes", "source and target have the same bytes"))
        elif source is not None and target is not None:
            pair = pair_findings(source, target, policy)
            # Another view of a scene may be the same view moved.
            is_view = _VIEW in (row["tags"] or ())
            found += [finding for finding in pair if not (is_view and finding.check == "shifted")]
            if is_same_picture(source, target, pictures[sources[0]]["data"], pictures[-1]["data"]):
                found.append(Finding("same pixels", "source and target have the same pixels"))
            flat = [view for view in flat if not is_emptied(view, target if view is source else source)]
    found += [Finding("single colour", f"a picture is all {colour_of(view)}") for view in flat]
    ground = views[sources[0]] if paired else views[-1]
    for picture in pictures:
        if picture["role"] == "mask":
            found += mask_findings(picture["data"], ground, policy)
    return policy.kept(found)


def text_findings(instructions: Sequence[str], rewritten: str | None = None, most: float = math.inf) -> list[Finding]:
    """Instructions that are empty or have more than `most` characters."""
    texts = [*instructions, *([] if rewritten is None else [rewritten])]
    found = []
    if any(not text.strip() for text in texts):
        found.append(Finding("empty instruction", "an instruction has no text"))
    longest = max(map(len, texts))
    if longest > most:
        found.append(Finding("long instruction", f"an instruction has {counted(longest, 'character')}"))
    return found


def tag_findings(tags: Sequence[int] | None, *, partial: bool = False) -> list[Finding]:
    """Unknown tags, and rules that the tags break. partial: preservation tags may be missing."""
    if tags is None:
        return []
    strange = [tag for tag in tags if not 0 <= tag < len(TAGS)]
    if strange or len(set(tags)) < len(tags):
        return [Finding("unknown tag", f"the tags are {', '.join(map(str, tags))}")]
    broken = TaskDescriptor.from_tags(TAGS[tag].name for tag in tags).broken_rules()
    names = [rule.name for rule in broken if not (partial and rule.name == "something is kept")]
    return [Finding("tag rules", f"broken: {', '.join(names)}")] if names else []


def picture_findings(picture: Mapping[str, Any], policy: Policy = DEFAULT) -> tuple[list[Finding], View | None]:
    """The findings of one encoded picture {role, data, width, height}, and its View unless it is undecodable."""
    role = picture["role"]
    try:
        with open_picture(picture["data"]) as image:
            size = upright_size(image)
            found = size_findings(role, size, policy)
            recorded = (picture["width"], picture["height"])
            # Some sources record the size before the EXIF rotation, others after it.
            if recorded not in (size, image.size):
                text = f"the {role} has {size[0]}x{size[1]} pixels, its record says {recorded[0]}x{recorded[1]}"
                found.append(Finding("recorded size", text))
            view = _view(image, size)
    except ImageError as error:
        return [Finding("huge" if str(error) == TOO_LARGE else "undecodable", f"{role}: {error}")], None
    return found, view


def size_findings(role: str, size: tuple[int, int], policy: Policy) -> list[Finding]:
    """Sizes (width, height) that cannot be trained on."""
    width, height = size
    found = []
    if min(size) < policy.limit("tiny", 0):
        found.append(Finding("tiny", f"the {role} has {width}x{height} pixels"))
    if max(size) > policy.limit("extreme aspect") * min(size):
        found.append(Finding("extreme aspect", f"the {role} has {width}x{height} pixels"))
    return found


def pair_findings(source: View, target: View, policy: Policy) -> list[Finding]:
    """Different sizes of source and target, or else a shift between them."""
    sizes = f"{source.width}x{source.height} and {target.width}x{target.height}"
    if not _one_aspect((source.width, source.height), (target.width, target.height), policy.limit("aspect mismatch")):
        return [Finding("aspect mismatch", f"source and target have {sizes}")]
    if (source.width, source.height) != (target.width, target.height):
        return [Finding("size mismatch", f"source and target have {sizes}")]
    moved = shift_of(source, target)
    if moved is None or np.hypot(*moved) < max(MIN_SHIFT, MIN_SHIFT_SEEN * source.factor):
        return []
    return [Finding("shifted", f"the target lies {moved[0]:+.1f} px right and {moved[1]:+.1f} px down of the source")]


def shift_of(source: View, target: View) -> tuple[float, float] | None:
    """Shift (right, down) of the target against the source, in pixels; None if they do not show the same scene."""
    if source.copy.shape != target.copy.shape:
        return None
    moved = measure_shift(source.grey, target.grey)
    return None if moved is None else (moved[0] * source.factor, moved[1] * source.factor)


def is_same_picture(source: View, target: View, source_data: bytes, target_data: bytes) -> bool:
    """Whether all pixels are equal. The files are decoded at full size only if their copies are similar."""
    if source.copy.shape != target.copy.shape:
        return False
    # Formats are scaled down by different code, so that copies of equal pictures may differ slightly.
    for step in (_SOME, 1):
        first, second = (view.copy[::step, ::step].astype(np.int16) for view in (source, target))
        if np.abs(first - second).max() > 16:
            return False
    return np.array_equal(np.asarray(load_image(source_data)), np.asarray(load_image(target_data)))


def colour_of(view: View) -> tuple[int, int, int] | None:
    """The colour (red, green, blue) of a single-colour picture, else None."""
    for step in (_SOME, 1):
        pixels = view.copy[::step, ::step].reshape(-1, 3)
        low, high = pixels.min(0), pixels.max(0)
        if (high.astype(np.int16) - low > FLAT).any():
            return None
    red, green, blue = (int(value) for value in low)
    return red, green, blue


def is_emptied(view: View, other: View | None) -> bool:
    """Whether most of `other` has the colour of this single-colour picture, which then shows it without its objects."""
    if other is None:
        return False
    near = np.abs(other.copy.astype(np.int16) - view.copy[0, 0]).max(-1) <= 2 * FLAT
    return bool(EMPTIED_SHARE <= near.mean() < 1)


def _one_aspect(one: tuple[int, int], other: tuple[int, int], limit: float) -> bool:
    return abs(math.log((one[0] / one[1]) / (other[0] / other[1]))) <= limit


def mask_findings(data: bytes, ground: View | None, policy: Policy = DEFAULT) -> list[Finding]:
    """The findings of a mask (white where the edit is) for the picture that it belongs to."""
    try:
        with open_picture(data) as image:
            size = upright_size(image)
            # Transparency on black, as a mask is read: what is left is neither black nor white in a photograph.
            pixels = np.asarray(upright_rgb(image, is_mask=True))
        is_empty = load_mask(data).getbbox() is None
    except ImageError as error:
        return [Finding("huge" if str(error) == TOO_LARGE else "undecodable", f"mask: {error}")]
    found = []
    if ground is not None and not _one_aspect(size, (ground.width, ground.height), policy.limit("mask size")):
        sizes = f"{size[0]}x{size[1]} and {ground.width}x{ground.height}"
        found.append(Finding("mask size", f"mask and picture have {sizes}"))
    if is_empty:
        found.append(Finding("empty mask", "no opaque pixel is brighter than middle grey"))
    share = _share_of_photograph(pixels)
    if share > policy.limit("no mask"):
        found.append(Finding("no mask", f"{share:.0%} of the pixels are neither black nor white"))
    return found


def _share_of_photograph(pixels: np.ndarray) -> float:
    """Share of the pixels (h, w, 3) that are grey or coloured. The soft edge of a mask is grey, but narrow."""
    small = pixels[:: max(1, pixels.shape[0] // COPY_SIDE), :: max(1, pixels.shape[1] // COPY_SIDE)].astype(np.int16)
    level, spread = small.mean(axis=2), small.max(axis=2) - small.min(axis=2)
    return float(((level > GREY[0]) & (level < GREY[1]) | (spread > COLOURFUL)).mean())


def _view(image: Image.Image, size: tuple[int, int]) -> View:
    factor = 1
    while max(size) // (2 * factor) >= COPY_SIDE:
        factor *= 2
    before = image.size
    if factor > 1:
        image.draft("RGB", (before[0] // factor, before[1] // factor))
    left = factor // max(1, round(before[0] / image.size[0]))
    copy = upright_rgb(image)
    if left > 1:
        copy = copy.reduce(left)
    return View(*size, np.asarray(copy), factor)
