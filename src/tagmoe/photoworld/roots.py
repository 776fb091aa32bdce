"""The pictures that PhotoWorld is composed of: cut-outs with alpha and captions, and grounds.

They are read from two folders. A caption is the first line of NAME.txt beside NAME.png; without one a thing is called
as its file is.
Held-out roots: pictures that look alike, or have the same caption, form one group, and a group is in one split only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from tagmoe.errors import DataError, ImageError
from tagmoe.pictures import load_image, open_picture, upright_picture
from tagmoe.sentences import counted, reason_of

EXTENSIONS = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".avif")
SPARE = 1.25
"""Shorter side of a ground, in sides of the composed picture: the rest is what crops differ by."""
WIDEST = 2.0
"""Longest side of a ground, in its shorter ones; the rest is cut off at both ends."""
LEAST_THING = 0.01
"""Least share of opaque pixels in a cut-out."""
MOST_OPAQUE = 0.97
"""Most share of opaque pixels in a cut-out: with more it is a photograph in a frame, and not cut out."""
ALIKE_BITS = 6
"""Of the 64 bits of two difference hashes, how many may differ in pictures that look alike."""
EVEN = 5
"""Grey levels by which a square must be brighter than its neighbour to set a bit of the hash."""
FEWEST = 2
"""Fewest groups of cut-outs, and of grounds, in each split: to replace one by another there must be two."""
CAPTION_BYTES = 4096
CAPTION_WORDS = 6
_ARTICLE = re.compile(r"^(?:an?|the|some|this|these) ", re.IGNORECASE)
_END = re.compile(r"[.;:,(\[\"!?|]| - | (?:that|which|called|known|with|from|is|are|in|on) ", re.IGNORECASE)
_NO_WORD = re.compile(r"[\W_\d]+")

T = TypeVar("T", "Cutout", "Ground")


@dataclass(frozen=True, eq=False)
class Cutout:
    """A thing without its ground.

    noun: what it is, without an article ("red apple"). article: "a", "an", "the" or "". pixels: (h, w, 4) uint8, its
    bounding box at most as large as the composed picture; colour is not multiplied by alpha. has_caption: whether the
    noun is of a caption; else it is of the file's name. group: names its look-alikes.
    """

    name: str
    noun: str
    article: str
    digest: str
    pixels: np.ndarray = field(repr=False)
    look: tuple[int, int]
    has_caption: bool
    group: str = ""

    @property
    def phrase(self) -> str:
        """ "a red apple"."""
        return f"{self.article} {self.noun}".strip()


@dataclass(frozen=True, eq=False)
class Ground:
    """A photograph to stand on. pixels: (H, W, 3) uint8. horizon: its row. group: names its look-alikes."""

    name: str
    digest: str
    pixels: np.ndarray = field(repr=False)
    horizon: int
    look: tuple[int, int]
    group: str = ""


@dataclass(frozen=True)
class Roots:
    """The roots of one split."""

    cutouts: tuple[Cutout, ...]
    grounds: tuple[Ground, ...]


def read_roots(
    grounds: Path,
    cutouts: Path,
    size: int,
    held_out: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Roots, Roots]:
    """The roots of training and the held-out ones, from two folders and all below them.

    size: side of the composed pictures in pixels. held_out: share of the groups of both kinds that training never sees;
    0: no held-out roots. progress: called with the pictures read and all.
    Raises DataError in one sentence for a missing folder, a picture that cannot be read, a cut-out without alpha, an
    empty one, and for too few pictures.
    """
    ground_files, cutout_files = _files(grounds, "grounds"), _files(cutouts, "cut-outs")
    count = len(ground_files) + len(cutout_files)
    found: list[Ground] = []
    things: list[Cutout] = []
    for number, file in enumerate([*ground_files, *cutout_files], 1):
        if number <= len(ground_files):
            found.append(_ground(file, grounds, size))
        else:
            things.append(_cutout(file, cutouts, size))
        if progress is not None:
            progress(number, count)
    seen_things, kept_things = _divided_cutouts(things, held_out, cutouts)
    seen_grounds, kept_grounds = _divided(_grouped(found, lambda one: one.digest), held_out, "grounds", grounds)
    return Roots(seen_things, seen_grounds), Roots(kept_things, kept_grounds)


def read_cutouts(folder: Path, size: int, held_out: float) -> tuple[tuple[Cutout, ...], tuple[Cutout, ...]]:
    """(cut-outs of training, held-out ones) of a folder; the arguments and errors are those of `read_roots`."""
    return _divided_cutouts([_cutout(file, folder, size) for file in _files(folder, "cut-outs")], held_out, folder)


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder and below it, by name, without hidden ones; none where there is no such folder."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def caption_file(file: Path) -> Path:
    """Where the caption of a cut-out may stand."""
    return file.with_suffix(".txt")


def _files(folder: Path, kind: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}; give a folder of {kind}.")
    found = picture_files(folder)
    if not found:
        raise DataError(f"The folder {str(folder)!r} of {kind} has no pictures ({', '.join(EXTENSIONS)}).")
    return found


def _ground(file: Path, folder: Path, size: int) -> Ground:
    shorter = round(SPARE * size)
    data = _bytes(file)
    try:
        # 3 * shorter suffices for the longer side too, since a longer one is cut off.
        image = load_image(data, draft=(3 * shorter, 3 * shorter))
    except ImageError as error:
        raise _unreadable(file, error) from None
    if min(image.size) < size:
        raise DataError(
            f"The ground {str(file)!r} is {image.width}x{image.height} pixels, smaller than the pictures of {size}; "
            "leave it out or choose a smaller --size."
        )
    return ground_of(image, hashlib.sha256(data).hexdigest(), size, file.relative_to(folder).as_posix())


def ground_of(image: Image.Image, digest: str, size: int, name: str = "") -> Ground:
    """A photograph as a ground. image: RGB, both sides at least `size`. digest: of the photograph. name: its file."""
    shorter = round(SPARE * size)
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    longest = round(WIDEST * shorter)
    left, top = (max(0, (side - longest) // 2) for side in image.size)
    image = image.crop((left, top, left + min(width, longest), top + min(height, longest)))
    pixels = np.asarray(image)
    return Ground(name, digest, pixels, horizon_of(pixels), _look(image), digest)


def horizon_of(pixels: np.ndarray) -> int:
    """The row, in the middle of a ground (H, W, 3), where what is above differs most from what is below.

    Where nothing differs much it is a little above the middle.
    """
    rows = pixels.mean(axis=1)
    height, band = len(rows), max(2, len(rows) // 12)
    sums = np.concatenate([np.zeros((1, 3)), rows.cumsum(axis=0)])
    places = np.arange(round(0.3 * height), round(0.62 * height))
    above, below = sums[places] - sums[places - band], sums[places + band] - sums[places]
    steps = np.abs(below - above).sum(axis=1) / band
    return int(places[steps.argmax()]) if steps.max() > 45 else round(0.45 * height)


def _cutout(file: Path, folder: Path, size: int) -> Cutout:
    data = _bytes(file)
    try:
        with open_picture(data) as image:
            is_cut = image.has_transparency_data
            whole = upright_picture(image).convert("RGBA")
    except ImageError as error:
        raise _unreadable(file, error) from None
    if not is_cut:
        raise DataError(
            f"The cut-out {str(file)!r} has no alpha channel, so it is not cut out; give PNG or WebP files whose "
            "ground is transparent."
        )
    opaque = np.asarray(whole.getchannel("A")) > 127
    if opaque.mean() < LEAST_THING or opaque.mean() > MOST_OPAQUE:
        what = "hardly any opaque pixel" if opaque.mean() < LEAST_THING else "hardly any transparent pixel"
        raise DataError(f"The cut-out {str(file)!r} has {what}; leave it out, or cut the thing out of its ground.")
    rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    whole = whole.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    whole.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    caption = _caption(file)
    article, noun = named(caption or _NO_WORD.sub(" ", file.stem).strip() or "thing")
    grey = Image.alpha_composite(Image.new("RGBA", whole.size, (128, 128, 128, 255)), whole)
    digest = hashlib.sha256(data).hexdigest()
    name = file.relative_to(folder).as_posix()
    return Cutout(name, noun, article, digest, np.asarray(whole), _look(grey), bool(caption))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"The file {str(file)!r} cannot be read ({reason_of(error)}).") from None


def _unreadable(file: Path, error: ImageError) -> DataError:
    return DataError(f"The file {str(file)!r} cannot be used ({str(error).rstrip('.')}); mend it or take it out.")


def _caption(file: Path) -> str:
    """The first line of the text beside a cut-out; empty where there is none."""
    text = caption_file(file)
    if text.is_file():
        try:
            with text.open("rb") as handle:
                first = handle.read(CAPTION_BYTES).decode("utf-8-sig", "ignore").strip().partition("\n")[0].strip()
        except OSError as error:
            raise DataError(f"The caption {str(text)!r} cannot be read ({reason_of(error)}).") from None
        if _NO_WORD.sub("", first):
            return first
    return ""


def named(caption: str) -> tuple[str, str]:
    """(article, noun) of a caption: its first words, without the clauses that say more."""
    words = " ".join(caption.split())
    start = _END.split(words)[0].strip() or words
    has_article = _ARTICLE.match(start)
    noun = " ".join(_ARTICLE.sub("", start).split()[:CAPTION_WORDS])
    noun = re.sub(r"[^\w '&/-]", "", noun, flags=re.ASCII).strip() or "thing"
    if not has_article or has_article[0].strip().lower() not in ("a", "an", "the"):
        is_plural = noun.endswith("s") and not noun.endswith("ss")
        return ("" if is_plural else _indefinite(noun)), noun
    return ("the" if has_article[0].strip().lower() == "the" else _indefinite(noun)), noun


def _indefinite(noun: str) -> str:
    return "an" if noun[0].lower() in "aeiou" else "a"


def _look(image: Image.Image) -> tuple[int, int]:
    """The difference hashes of a picture and of its mirror image, 64 bits each."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX, reducing_gap=2.0), dtype=np.int16)
    # A margin, so that noise decides nothing where a picture is even.
    hashes = [(one[:, 1:] > one[:, :-1] + EVEN).flatten() for one in (small, small[:, ::-1])]
    first, second = (int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in hashes)
    return first, second


def _grouped(roots: Sequence[T], same: Callable[[T], str]) -> list[T]:
    """The roots with the names of their groups: those with one value of `same`, or that look alike, belong together."""
    parent = list(range(len(roots)))

    def top(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[str, int] = {}
    looks, mirrored = np.array([root.look for root in roots], dtype=np.uint64).reshape(-1, 2).T
    for place, root in enumerate(roots):
        for key in (same(root), root.digest):
            parent[top(place)] = top(first.setdefault(key, place))
        bits = [np.bitwise_count(looks[:place] ^ one[place]) for one in (looks, mirrored)]
        for other in np.flatnonzero(np.minimum(*bits) <= ALIKE_BITS):
            parent[top(place)] = top(int(other))
    names: dict[int, str] = {}
    for place, root in enumerate(roots):
        names[top(place)] = min(names.get(top(place), root.digest), root.digest)
    return [replace(root, group=names[top(place)]) for place, root in enumerate(roots)]


def _divided_cutouts(
    things: Sequence[Cutout], held_out: float, folder: Path
) -> tuple[tuple[Cutout, ...], tuple[Cutout, ...]]:
    grouped = _grouped(things, lambda one: one.noun if one.has_caption else one.digest)
    return _divided(grouped, held_out, "cut-outs", folder)


def _divided(roots: Sequence[T], held_out: float, kind: str, folder: Path) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """(roots of training, held-out roots), by the order of the groups' digests, which has nothing to do with looks."""
    groups = sorted({root.group for root in roots})
    apart = max(FEWEST, round(held_out * len(groups))) if held_out else 0
    if len(groups) < FEWEST + apart:
        alike = "" if len(groups) == len(roots) else f" ({counted(roots, 'picture')}, look-alikes counted once)"
        needs = f"{FEWEST + apart}, as {apart} of them are held out" if apart else str(FEWEST)
        raise DataError(
            f"The folder {str(folder)!r} has {len(groups)} different {kind}{alike}, too few: give at least {needs}."
        )
    kept = set(groups[:apart])
    return (
        tuple(root for root in roots if root.group not in kept),
        tuple(root for root in roots if root.group in kept),
    )
