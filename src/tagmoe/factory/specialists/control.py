"""`control`: maps of a photograph (edges, lines, colours, blur, depth, masks), and the photograph of a map.

From the map to the photograph is the direction of ControlNet and of the paper's controllable generation; its target is
real. From the photograph to the map teaches perception; its target is an annotator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from tagmoe.evaluate.metrics.canny import canny
from tagmoe.factory.requests import Pair, Request
from tagmoe.factory.specialists.networks import MapNetwork
from tagmoe.factory.specialists.pipelines import Drawer
from tagmoe.factory.specialists.settings import BUILT_IN, Control
from tagmoe.factory.specialists.specialist import Model, Photograph, Specialist, Unfit, encoded, said
from tagmoe.photoworld.looks import edges
from tagmoe.pictures import load_image
from tagmoe.tags import TaskDescriptor

TO_IMAGE = TaskDescriptor(("image generation",), (), ("structure preservation",))
TO_MAP = TaskDescriptor(("global editing",), ("style transfer",), ("structure preservation",))
WORDS = {
    "canny": "edge map",
    "hed": "soft edge map",
    "line": "line drawing",
    "colour": "colour layout",
    "blur": "blurred picture",
    "depth": "depth map",
    "pose": "pose map",
    "mask": "mask of the main thing",
}
WITH_CAPTION = ("Make a photograph from this {map}: {caption}.", "Follow this {map}: {caption}.")
WITHOUT_CAPTION = ("Make a photograph from this {map}.", "Turn this {map} into a photograph.")
DRAW = {
    "blur": ("Blur this picture strongly.", "Put this picture far out of focus."),
    "colour": ("Show only the colour layout of this picture.", "Turn this picture into blocks of its colours."),
}
NEW = " to new image"
DRAW_MAP = ("Draw the {map} of this picture.", "Turn this picture into its {map}.", "Show the {map} of this picture.")


class Controller(Specialist[Control]):
    """Pairs of a map and a photograph, in both directions; and of a map and a picture that ControlNet draws from it."""

    def __init__(self, step: Control) -> None:
        super().__init__(step)
        self._networks = {name: MapNetwork(step.networks[name]) for name in step.maps if name in step.networks}
        self._drawers = {name: Drawer(given, "ControlNet") for name, given in step.controlnet.items()}

    def open(self) -> None:
        for network in self._networks.values():
            network.open()
        for drawer in self._drawers.values():
            drawer.open()

    def task(self, variant: str) -> str:
        # The names that data sets publish: "canny to image". A drawn map is called by its words.
        return f"{_map_of(variant)} to image" if _is_to(variant) else f"{_map_of(variant)} map"

    def tags(self, variant: str) -> TaskDescriptor:
        return TO_IMAGE if _is_to(variant) else TO_MAP

    def models(self, variant: str) -> Sequence[Model]:
        name = _map_of(variant)
        own = self._networks[name].model if name in self._networks else Model(f"tagmoe {name}")
        return (own, self._drawers[name].model) if variant.endswith(NEW) else (own,)

    def make(self, photograph: Photograph, request: Request, dice: np.random.Generator) -> Pair:
        name, words = _map_of(request.wish.variant), WORDS[_map_of(request.wish.variant)]
        drawn = encoded(self._map(name, photograph))
        if not _is_to(request.wish.variant):
            return Pair(said(dice, DRAW.get(name, DRAW_MAP), map=words), (photograph.picture,), drawn)
        caption = photograph.caption.rstrip(".")
        target = photograph.picture
        if request.wish.variant.endswith(NEW):
            if not caption:
                raise Unfit("no caption says what is to be drawn")
            target = encoded(self._drawers[name](caption, request.seed, image=load_image(drawn.data)))
        text = said(dice, WITH_CAPTION if caption else WITHOUT_CAPTION, map=words, caption=caption)
        return Pair(text, (replace(drawn, role="control"),), target)

    def _map(self, name: str, photograph: Photograph) -> np.ndarray:
        """(H, W, 3) uint8."""
        image = photograph.image
        if name in self._networks:
            grey = (self._networks[name](image) * 255 + 0.5).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        assert name in BUILT_IN
        if name == "canny":
            return np.repeat(np.uint8(255) * canny(photograph.pixels)[..., None], 3, axis=2)
        if name == "line":
            # Dark lines on white paper, as a drawing has them.
            return 255 - edges(photograph.pixels)
        if name == "blur":
            return np.asarray(image.filter(ImageFilter.GaussianBlur(self.step.blur * min(image.size))))
        block = max(1, round(min(image.size) / self.step.colour))
        size = (max(1, round(image.width / block)), max(1, round(image.height / block)))
        return np.asarray(image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST))


def _is_to(variant: str) -> bool:
    return variant.endswith((" to image", NEW))


def _map_of(variant: str) -> str:
    return variant.removesuffix(" to image").removesuffix(NEW).removeprefix("image to ")
