"""`restore`: a photograph is damaged, and the target is the photograph itself.

The damages are those of the paper's low-level tasks: colour, blur, noise, low resolution; and JPEG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from tagmoe.factory.requests import Pair, Request
from tagmoe.factory.specialists.settings import Restore
from tagmoe.factory.specialists.specialist import Model, Photograph, Specialist, Unfit, encoded, said
from tagmoe.photoworld.looks import bytes_of, grey
from tagmoe.pictures import load_image
from tagmoe.tags import TaskDescriptor

TASK = {"grey": "colorization", "blur": "deblur", "noise": "denoise", "small": "enlarge", "jpeg": "artifact removal"}
TAGS = TaskDescriptor(
    ("global editing",),
    ("attribute editing",),
    ("structure preservation", "background preservation", "identity preservation"),
)
WORDINGS: dict[str, tuple[str, ...]] = {
    "grey": (
        "Give this photograph natural colours.",
        "Colour this black and white photograph.",
        "Add the colours that are missing.",
        "Colorize this picture.",
    ),
    "blur": (
        "Make this blurred photograph sharp.",
        "Remove the blur.",
        "Bring this picture into focus.",
        "Sharpen this photograph.",
    ),
    "noise": (
        "Remove the noise from this photograph.",
        "Clean up the grain.",
        "Denoise this picture.",
        "Make this noisy photograph clean.",
    ),
    "small": (
        "Show this small picture in full detail.",
        "Raise the resolution of this photograph.",
        "Add the missing detail.",
        "Make this coarse picture fine.",
    ),
    "jpeg": (
        "Remove the compression artifacts.",
        "Clean this badly compressed photograph.",
        "Undo the blocks of the compression.",
        "Restore what JPEG has damaged.",
    ),
}
LEAST_COLOUR = 6.0
"""Mean distance of a photograph from its own grey, in grey levels, below which it has none to give back. [ours]"""


class Restorer(Specialist[Restore]):
    """Pairs of a damaged photograph and the photograph."""

    def task(self, variant: str) -> str:
        return TASK[variant]

    def tags(self, variant: str) -> TaskDescriptor:
        return TAGS

    def models(self, variant: str) -> Sequence[Model]:
        return (Model(f"tagmoe {variant}"),)

    def make(self, photograph: Photograph, request: Request, dice: np.random.Generator) -> Pair:
        damage = request.wish.variant
        words = said(dice, WORDINGS[damage])
        if damage == "grey":
            source, drawn = grey(photograph.pixels), {}
            if np.abs(source.astype(np.int16) - photograph.pixels).mean() < LEAST_COLOUR:
                raise Unfit("the photograph has hardly any colour")
        else:
            low, high = getattr(self.step, damage)
            strength = round(float(dice.uniform(low, high)), 4)
            source, drawn = DAMAGES[damage](photograph.image, strength, dice), {damage: strength}
        return Pair(words, (encoded(source),), photograph.picture, drawn=drawn)


def blurred(image: Image.Image, share: float, dice: np.random.Generator) -> np.ndarray:
    """Out of focus: a Gaussian of this share of the shorter side."""
    return np.asarray(image.filter(ImageFilter.GaussianBlur(share * min(image.size))))


def noisy(image: Image.Image, levels: float, dice: np.random.Generator) -> np.ndarray:
    """With Gaussian noise of so many grey levels."""
    pixels = np.asarray(image)
    return bytes_of(pixels + dice.standard_normal(pixels.shape, dtype=np.float32) * levels)


def small(image: Image.Image, factor: float, dice: np.random.Generator) -> np.ndarray:
    """Each side so many times smaller, and enlarged again without any new detail."""
    size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    tiny = image.resize(size, Image.Resampling.BOX)
    return np.asarray(tiny.resize(image.size, Image.Resampling.BICUBIC))


def compressed(image: Image.Image, quality: float, dice: np.random.Generator) -> np.ndarray:
    """After JPEG of this quality."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=round(quality))
    return np.asarray(load_image(buffer.getvalue()))


DAMAGES: dict[str, Callable[[Image.Image, float, np.random.Generator], np.ndarray]] = {
    "blur": blurred,
    "noise": noisy,
    "small": small,
    "jpeg": compressed,
}
