"""What can be wrong with a record: small pure functions of its columns and of its decoded pictures.

Pictures are looked at on copies of a few hundred pixels. JPEG files are decoded at that size right away: all bytes are
read for it, so that a truncated file is found as surely as at full size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from tagmoe.data.check.shift import measure_shift
from tagmoe.data.store.record import PARTIAL
from tagmoe.errors import ImageError
from tagmoe.pictures import EXCHANGING, TOO_LARGE, load_image, open_picture, orientation, to_rgb
from tagmoe.tags import TAGS, TaskDescriptor

VERSION = 1
"""To be raised with every change of what a check finds: results of other versions are made again."""

CHECKS: dict[str, str] = {
    "undecodable": "a picture is truncated, damaged or no picture",
    "tiny": "a picture has a side of less than 64 pixels",
    "huge": "a picture has more than 64 megapixels",
    "extreme aspect": "a picture is more than 4 times as long as wide",
    "recorded size": "a picture has another size than its record says",
    "single colour": "a picture is of one colour, and not an emptied scene",
    "aspect mismatch": "source and target have different aspects",
    "size mismatch": "source and target have different sizes and one aspect",
    "same bytes": "source and target are one file",
    "same pixels": "source and target are different files with the same pixels",
    "shifted": "the target shows the source's scene, but moved by a pixel or more",
    "mask size": "a mask has another size than its picture",
    "empty mask": "a mask has no white pixel",
    "empty instruction": "an instruction has no text",
    "long instruction": "an instruction has more than 2,000 characters",
    "unknown tag": "a tag is not in the vocabulary, or given twice",
    "tag rules": "the tags break a rule of the vocabulary",
    "duplicate id": "an earlier record has the same id",
}
"""Every check by name, in words that are true where it finds something."""

MIN_SIDE = 64
MAX_ASPECT = 4.0
ASPECT_TOLERANCE = 0.02
"""How far two aspects may lie apart: sizes are rounded to whole pixels, or to 8 or 16 of them."""
FLAT = 2
"""Grey levels by which a picture of one colour may vary."""
EMPTIED_SHARE = 0.5
"""A picture of one colour is sound where so much of its counterpart has that colour: the only thing was removed."""
MIN_SHIFT = 0.75
"""Pixels from which a target counts as shifted; a whole pixel, less what the measurement errs by."""
MIN_SHIFT_SEEN = 0.3
"""The same in pixels of the copy, which for large pictures is the greater limit."""
MAX_CHARACTERS = 2000
COPY_SIDE = 256
"""The longer side of a copy is at least so long, and less than twice that, in pixels."""
_SOME = 8  # every 8th pixel of every 8th row tells most pictures apart at once

COLUMNS = ("instruction", "instructions", "instruction_rewritten", "tags", "tag_provenance", "images", "target")
"""What `examine` reads of a row."""


class Finding(NamedTuple):
    """A check that found something, and what it found."""

    check: str
    detail: str


@dataclass(frozen=True)
class View:
    """An upright picture as the checks see it.

    width, height: of the picture itself; copy: (h, w, 3) uint8; factor: pixels of the picture in one of the copy.
    """

    width: int
    height: int
    copy: np.ndarray
    factor: int

    @property
    def grey(self) -> np.ndarray:
        """(h, w) float32."""
        return self.copy @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def examine(row: Mapping[str, Any]) -> list[Finding]:
    """All that is wrong with one record, given as a row with COLUMNS; its id is checked over the whole store."""
    status = (row["tag_provenance"] or {}).get("status", "")
    found = text_findings([row["instruction"], *(row["instructions"] or ())], row["instruction_rewritten"])
    found += tag_findings(row["tags"], partial=status == PARTIAL)
    pictures = [*(row["images"] or ()), {**row["target"], "role": "target"}]
    views: list[View | None] = []
    for picture in pictures:
        view = None
        if picture["role"] != "mask":
            problems, view = picture_findings(picture)
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
            found += pair_findings(source, target)
            if is_same_picture(source, target, pictures[sources[0]]["data"], pictures[-1]["data"]):
                found.append(Finding("same pixels", "source and target have the same pixels"))
            flat = [view for view in flat if not is_emptied(view, target if view is source else source)]
    found += [Finding("single colour", f"a picture is all {colour_of(view)}") for view in flat]
    ground = views[sources[0]] if paired else views[-1]
    for picture in pictures:
        if picture["role"] == "mask":
            found += mask_findings(picture["data"], ground)
    return found


def text_findings(instructions: Sequence[str], rewritten: str | None = None) -> list[Finding]:
    """Instructions without text, or with more than a text encoder reads."""
    texts = [*instructions, *([] if rewritten is None else [rewritten])]
    found = []
    if any(not text.strip() for text in texts):
        found.append(Finding("empty instruction", "an instruction has no text"))
    longest = max(map(len, texts))
    if longest > MAX_CHARACTERS:
        found.append(Finding("long instruction", f"an instruction has {longest} characters"))
    return found


def tag_findings(tags: Sequence[int] | None, *, partial: bool = False) -> list[Finding]:
    """Tags that the vocabulary does not have, and rules that they break; with `partial`, preservation may be open."""
    if tags is None:
        return []
    strange = [tag for tag in tags if not 0 <= tag < len(TAGS)]
    if strange or len(set(tags)) < len(tags):
        return [Finding("unknown tag", f"the tags are {', '.join(map(str, tags))}")]
    broken = TaskDescriptor.from_tags(TAGS[tag].name for tag in tags).broken_rules()
    names = [rule.name for rule in broken if not (partial and rule.name == "something is kept")]
    return [Finding("tag rules", f"broken: {', '.join(names)}")] if names else []


def picture_findings(picture: Mapping[str, Any]) -> tuple[list[Finding], View | None]:
    """What is wrong with one encoded picture {role, data, width, height}, and the picture unless it is undecodable."""
    role = picture["role"]
    try:
        with open_picture(picture["data"]) as image:
            size = _upright_size(image)
            found = size_findings(role, size)
            recorded = (picture["width"], picture["height"])
            # Sources differ in whether they give the size before or after the turn that a camera noted.
            if recorded not in (size, image.size):
                text = f"the {role} has {size[0]}x{size[1]} pixels, its record says {recorded[0]}x{recorded[1]}"
                found.append(Finding("recorded size", text))
            view = _view(image, size)
    except ImageError as error:
        return [Finding("huge" if str(error) == TOO_LARGE else "undecodable", f"{role}: {error}")], None
    return found, view


def size_findings(role: str, size: tuple[int, int]) -> list[Finding]:
    """Sizes (width, height) that no training can use."""
    width, height = size
    found = []
    if min(size) < MIN_SIDE:
        found.append(Finding("tiny", f"the {role} has {width}x{height} pixels"))
    if max(size) > MAX_ASPECT * min(size):
        found.append(Finding("extreme aspect", f"the {role} has {width}x{height} pixels"))
    return found


def pair_findings(source: View, target: View) -> list[Finding]:
    """Sizes of a pair that do not fit, else a shift between its pictures."""
    sizes = f"{source.width}x{source.height} and {target.width}x{target.height}"
    if abs(np.log((source.width / source.height) / (target.width / target.height))) > ASPECT_TOLERANCE:
        return [Finding("aspect mismatch", f"source and target have {sizes}")]
    if (source.width, source.height) != (target.width, target.height):
        return [Finding("size mismatch", f"source and target have {sizes}")]
    moved = shift_of(source, target)
    if moved is None or np.hypot(*moved) < max(MIN_SHIFT, MIN_SHIFT_SEEN * source.factor):
        return []
    return [Finding("shifted", f"the target lies {moved[0]:+.1f} px right and {moved[1]:+.1f} px down of the source")]


def shift_of(source: View, target: View) -> tuple[float, float] | None:
    """(right, down) in pixels of the pictures by which the target's scene lies off the source's; None: not alike."""
    if source.copy.shape != target.copy.shape:
        return None
    moved = measure_shift(source.grey, target.grey)
    return None if moved is None else (moved[0] * source.factor, moved[1] * source.factor)


def is_same_picture(source: View, target: View, source_data: bytes, target_data: bytes) -> bool:
    """Whether every pixel is the same; the files are decoded whole only where their copies are alike."""
    if source.copy.shape != target.copy.shape:
        return False
    # Two formats are made smaller by different code: exactly equal pixels may then differ a little in the copy.
    for step in (_SOME, 1):
        first, second = (view.copy[::step, ::step].astype(np.int16) for view in (source, target))
        if np.abs(first - second).max() > 16:
            return False
    return np.array_equal(np.asarray(load_image(source_data)), np.asarray(load_image(target_data)))


def colour_of(view: View) -> tuple[int, int, int] | None:
    """The colour of a picture that has only one."""
    for step in (_SOME, 1):
        pixels = view.copy[::step, ::step].reshape(-1, 3)
        low, high = pixels.min(0), pixels.max(0)
        if (high.astype(np.int16) - low > FLAT).any():
            return None
    red, green, blue = (int(value) for value in low)
    return red, green, blue


def is_emptied(view: View, other: View | None) -> bool:
    """Whether a picture of one colour is its counterpart without the things on it: most of that has the same colour."""
    if other is None:
        return False
    near = np.abs(other.copy.astype(np.int16) - view.copy[0, 0]).max(-1) <= 2 * FLAT
    return bool(EMPTIED_SHARE <= near.mean() < 1)


def mask_findings(data: bytes, ground: View | None) -> list[Finding]:
    """What is wrong with a mask (white where the edit is) for the picture it belongs to."""
    try:
        with open_picture(data) as image:
            size = _upright_size(image)
            brightest = int(np.asarray(image.convert("L")).max())
    except ImageError as error:
        return [Finding("huge" if str(error) == TOO_LARGE else "undecodable", f"mask: {error}")]
    found = []
    if ground is not None and size != (ground.width, ground.height):
        sizes = f"{size[0]}x{size[1]} and {ground.width}x{ground.height}"
        found.append(Finding("mask size", f"mask and picture have {sizes}"))
    if brightest <= 127:
        found.append(Finding("empty mask", f"its brightest pixel is {brightest} of 255"))
    return found


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if orientation(image) in EXCHANGING else image.size


def _view(image: Image.Image, size: tuple[int, int]) -> View:
    turn, factor = orientation(image), 1
    while max(size) // (2 * factor) >= COPY_SIDE:
        factor *= 2
    before = image.size
    if factor > 1:
        image.draft("RGB", (before[0] // factor, before[1] // factor))
    image.load()
    left = factor // max(1, round(before[0] / image.size[0]))
    copy = to_rgb(image)
    if left > 1:
        copy = copy.reduce(left)
    if turn != 1:
        copy = ImageOps.exif_transpose(_with_turn(copy, turn))
    return View(*size, np.asarray(copy), factor)


def _with_turn(copy: Image.Image, turn: int) -> Image.Image:
    copy.getexif()[0x0112] = turn
    return copy
