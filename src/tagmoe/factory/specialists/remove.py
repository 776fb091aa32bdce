"""`remove`: the main thing of a photograph is found, and painted over with what is around it.

The add direction is the one to train: its source is painted, and its target is the photograph (Paint-by-Inpaint). The
remove direction has a painted target, and shows the painter's smears as if they were right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from tagmoe.extras import require
from tagmoe.factory.requests import Pair, Request
from tagmoe.factory.specialists.networks import MapNetwork
from tagmoe.factory.specialists.pipelines import Drawer
from tagmoe.factory.specialists.settings import Pipeline, Remove
from tagmoe.factory.specialists.specialist import Model, Photograph, Specialist, Unfit, encoded, said
from tagmoe.photoworld.roots import named
from tagmoe.photoworld.tasks import TASKS
from tagmoe.pictures import load_mask
from tagmoe.tags import TaskDescriptor

RADIUS = 4
"""Of the neighbourhood that OpenCV paints from, in pixels."""
UNSURE = (0.1, 0.9)
"""Values of a mask network that are neither the thing nor the ground. [ours]"""
STILL = 0.5
"""Share of the thing that the network still finds in the painted picture, from which the pair is dropped. [ours]"""
WORDINGS = {
    "add": ("Add {phrase}.", "Put {phrase} into this picture.", "There should be {phrase} here."),
    "remove": ("Remove the {noun}.", "Take the {noun} away.", "Delete the {noun}."),
}


class Remover(Specialist[Remove]):
    """Pairs of a photograph and the same without its main thing."""

    def __init__(self, step: Remove) -> None:
        super().__init__(step)
        self._drawer = Drawer(step.paint, "Inpaint") if isinstance(step.paint, Pipeline) else None
        if self._drawer is None:
            require("specialists", "cv2", purpose="Painting things over")
        self._network = None if step.mask is None else MapNetwork(step.mask)

    def open(self) -> None:
        for one in (self._network, self._drawer):
            if one is not None:
                one.open()

    def task(self, variant: str) -> str:
        return variant

    def tags(self, variant: str) -> TaskDescriptor:
        return TASKS[variant].tags

    def models(self, variant: str) -> Sequence[Model]:
        masks = () if self._network is None else (self._network.model,)
        painter = Model(f"opencv inpaint {self.step.paint}") if self._drawer is None else self._drawer.model
        return (*masks, painter)

    def make(self, photograph: Photograph, request: Request, dice: np.random.Generator) -> Pair:
        if not photograph.caption:
            raise Unfit("no caption says what the thing is")
        article, noun = named(photograph.caption)
        found = self._found(photograph, request)
        share = float(found.mean())
        if share < self.step.least:
            raise Unfit("no thing was found")
        if share > self.step.most:
            raise Unfit("the thing covers too much of the picture")
        hole = _widened(found, self.step.grow)
        painted = self._painted(photograph.pixels, hole, request.seed)
        with_, without = photograph.picture, encoded(painted)
        text = said(dice, WORDINGS[request.wish.variant], phrase=f"{article} {noun}".strip(), noun=noun)
        before, after = (without, with_) if request.wish.variant == "add" else (with_, without)
        mask = encoded(hole.astype(np.uint8) * 255, "mask")
        return Pair(text, (before, mask), after, self._fault(painted, found), {"share": round(share, 4)})

    def _found(self, photograph: Photograph, request: Request) -> np.ndarray:
        """(H, W) bool: the thing."""
        if self._network is not None:
            seen = self._network(photograph.image)
            found = seen > 0.5
            between = (seen > UNSURE[0]) & (seen < UNSURE[1])
            if between.sum() > self.step.unsure * max(1, found.sum()):
                raise Unfit("the network is not sure where the thing is")
            return np.asarray(found)
        own = next((one for one in request.root.images if one.role == "mask"), None)
        if own is None:
            raise Unfit("the root has no mask, and the plan names no network that finds one")
        mask = load_mask(own.data).resize(photograph.image.size, Image.Resampling.NEAREST)
        return np.asarray(mask) > 128

    def _painted(self, pixels: np.ndarray, hole: np.ndarray, seed: int) -> np.ndarray:
        if self._drawer is not None:
            mask = Image.fromarray(hole.astype(np.uint8) * 255)
            drawn = self._drawer(self.step.words, seed, image=Image.fromarray(pixels), mask_image=mask)
            return np.where(hole[..., None], drawn, pixels)
        import cv2

        how: Any = cv2.INPAINT_NS if self.step.paint == "ns" else cv2.INPAINT_TELEA
        return np.asarray(cv2.inpaint(np.ascontiguousarray(pixels), hole.astype(np.uint8), RADIUS, how))

    def _fault(self, painted: np.ndarray, found: np.ndarray) -> str:
        """What is wrong with a painted picture: the network still finds the thing in it."""
        if self._network is None:
            return ""
        again = self._network(Image.fromarray(painted)) > 0.5
        return "the thing is still to be seen" if float(again[found].mean()) > STILL else ""


def _widened(found: np.ndarray, share: float) -> np.ndarray:
    """(H, W) bool: the mask, wider by a share of the shorter side."""
    reach = round(share * min(found.shape))
    if not reach:
        return found
    wide = Image.fromarray(found.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * reach + 1))
    return np.asarray(wide) > 128
