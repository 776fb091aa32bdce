"""Editors that fail on purpose, by the words of their rows, for tests and benchmarks of the factory."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

HANG_SECONDS = 3600.0


def drawn(instruction: str, seed: int) -> float:
    """A number from 0 to 1 for a row, whatever its batch."""
    return int.from_bytes(hashlib.sha256(f"{instruction}/{seed}".encode()).digest()[:6], "big") / (1 << 48)


def moved(picture: Image.Image, right: int, down: int) -> Image.Image:
    """The whole picture moved; what comes in repeats the border."""
    array = np.asarray(picture)
    height, width = array.shape[:2]
    padded = np.pad(array, ((8, 8), (8, 8), (0, 0)), mode="edge")
    return Image.fromarray(padded[8 - down : 8 - down + height, 8 - right : 8 - right + width])


def inverted(instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]) -> list:
    """Every colour of the first picture turned round: an edit of the whole picture, a moment's work."""
    time.sleep(float(os.environ.get("TAGMOE_TEST_EDITOR_SECONDS", "0")))
    return [Image.fromarray(255 - np.asarray(pictures[0])) for pictures in images]


def _wrong(share: float, make: Callable[[Image.Image], Image.Image]) -> Callable[..., list]:
    def editor(instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]) -> list:
        right = inverted(instructions, images, seeds)
        return [
            make(pictures[0]) if drawn(words, seed) < share else picture
            for words, pictures, seed, picture in zip(instructions, images, seeds, right, strict=True)
        ]

    return editor


def _raise(picture: Image.Image) -> Image.Image:
    raise ValueError("out of memory")


def _hang(picture: Image.Image) -> Image.Image:
    time.sleep(HANG_SECONDS)
    return picture


def _die(picture: Image.Image) -> Image.Image:
    os._exit(9)


class Load:
    """Gives an editor of this module by its name, in the process that runs it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> Callable[..., list]:
        return globals()[self.name]


SHARE = 0.1
failing = _wrong(SHARE, _raise)
hanging = _wrong(SHARE, _hang)
dying = _wrong(SHARE, _die)
blank = _wrong(SHARE, lambda picture: Image.new("RGB", picture.size, "grey"))
copying = _wrong(SHARE, lambda picture: picture)
shifting = _wrong(SHARE, lambda picture: moved(picture, 3, -4))
no_picture = _wrong(SHARE, lambda picture: "no picture")  # type: ignore[arg-type, return-value]


FAULTS = {
    "out of memory": _raise,
    "blank": lambda picture: Image.new("RGB", picture.size, "grey"),
    "copied": lambda picture: picture,
    "shifted": lambda picture: moved(picture, 3, -4),
    "picture": lambda picture: "no picture",
}
"""What goes wrong, by a word of the reason that must be given."""


def fault_of(instruction: str, seed: int) -> str | None:
    """What goes wrong with a row: each fault in a tenth of the rows, nothing in the others."""
    number = int(drawn(instruction, seed) * 10)
    return list(FAULTS)[number] if number < len(FAULTS) else None


def stopping(instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]) -> list:
    """A tenth of the rows hang, and the process dies of another tenth."""
    for words, seed, pictures in zip(instructions, seeds, images, strict=True):
        number = int(drawn(words, seed) * 10)
        if number < 2:
            (_hang, _die)[number](pictures[0])
    return inverted(instructions, images, seeds)


def unreliable(instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]) -> list:
    """All faults in one editor."""
    right = inverted(instructions, images, seeds)
    faults = [fault_of(words, seed) for words, seed in zip(instructions, seeds, strict=True)]
    return [
        picture if fault is None else FAULTS[fault](pictures[0])  # type: ignore[operator]
        for picture, pictures, fault in zip(right, images, faults, strict=True)
    ]
