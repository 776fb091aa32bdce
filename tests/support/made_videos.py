"""Videos with known truth: a ground under a camera that moves, and a thing that moves on it by itself.

    clip = Clip(seed=3, camera="pan", subject="away")
    write_video(Path("a.mp4"), clip.frames())
    clip.truth(0, 20).subject      # how far the thing moved between two frames, as a share of the diagonal

Everything follows from the seed. Grounds are mosaics of TagWorld scenes, or photographs that are handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from tagmoe.world import render, sample
from tagmoe.world.scene import COLOURS, EXPRESSIONS, HAIRS, HATS, SHAPES, SKINS, TEXTURES, Face, Item, Thing
from tagmoe.world.sprites import sprite

WIDTH, HEIGHT = 320, 192
FPS = 12
MIRROR = cv2.BORDER_REFLECT_101
"""A ground has no end: beyond its border it is mirrored."""
DIAGONAL = float(np.hypot(WIDTH, HEIGHT))
CameraMove = Literal["still", "shake", "pan", "zoom", "turn", "all"]
SubjectMove = Literal["none", "still", "swing", "away", "replaced", "gone"]


@dataclass(frozen=True)
class Truth:
    """What happened between two frames. Lengths are shares of the diagonal, areas shares of the picture.

    camera: as `tagmoe.factory.video.motion.Motion` has it. subject: way of the thing on the ground, as the camera sees
    it. area: of the thing. overlap: of both views. other: the thing is another one, or gone. inside: the whole thing is
    in the picture, both times. swept: area of its old and its new place together.
    """

    camera: float
    subject: float
    area: float
    overlap: float
    other: bool
    inside: bool
    swept: float


@dataclass(frozen=True)
class Clip:
    """One shot. speed: factor of all motion. ground: (H, W, 3) uint8 to move over, by default of TagWorld."""

    seed: int
    camera: CameraMove = "still"
    subject: SubjectMove = "swing"
    seconds: float = 5.0
    speed: float = 1.0
    ground: np.ndarray | None = field(default=None, repr=False)
    size: float = 72.0

    def __len__(self) -> int:
        return round(self.seconds * FPS)

    def frames(self) -> Iterator[np.ndarray]:
        """The frames, (192, 320, 3) uint8."""
        return (self.frame(number) for number in range(len(self)))

    def frame(self, number: int) -> np.ndarray:
        """One frame."""
        camera = self._camera(number)
        picture = cv2.warpAffine(self._canvas, camera[:2], (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=MIRROR)
        placed = self._thing(number)
        if placed is None:
            return np.asarray(picture)
        matrix, thing = placed
        paint, cover = _sprite(thing)
        both = np.concatenate([paint, cover], axis=2)
        drawn = cv2.warpAffine(both, (camera @ matrix)[:2], (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        return np.asarray((picture * (1.0 - drawn[..., 3:]) + drawn[..., :3]).clip(0, 255) + 0.5, np.uint8)

    def truth(self, first: int, second: int) -> Truth:
        """What happened between two frames."""
        one, two = self._camera(first), self._camera(second)
        move = two @ np.linalg.inv(one)
        grid = np.stack(np.meshgrid(np.linspace(0, WIDTH, 9), np.linspace(0, HEIGHT, 9)), axis=-1).reshape(-1, 2)
        camera = float(np.median(np.hypot(*(_carried(move, grid) - grid).T)))
        whole = cv2.warpAffine(np.ones((HEIGHT, WIDTH), np.uint8), move[:2], (WIDTH, HEIGHT))
        placed = (self._thing(first), self._thing(second))
        subject, area, other = 0.0, 0.0, False
        if placed[0] is not None or placed[1] is not None:
            other = placed[0] is None or placed[1] is None or placed[0][1] != placed[1][1]
            area = (self.size * np.sqrt(abs(np.linalg.det(one[:2, :2])))) ** 2 / (WIDTH * HEIGHT) / 2
        if placed[0] is not None and placed[1] is not None:
            corners = np.stack(np.meshgrid([6.0, 16, 26], [6.0, 16, 26]), axis=-1).reshape(-1, 2)
            before, after = (_carried(two @ matrix, corners) for matrix, _ in placed)  # type: ignore[misc]
            subject = float(np.median(np.hypot(*(after - before).T)))
        inside = all(
            _is_inside(_carried(view @ there[0], np.array([[4.0, 4], [28, 4], [28, 28], [4, 28]])))
            for view, there in zip((one, two), placed, strict=True)
            if there is not None
        )
        covers = np.zeros((HEIGHT, WIDTH), np.float32)
        for there in placed:
            if there is not None:
                cover = np.ascontiguousarray(_sprite(there[1])[1][..., 0])
                covers = np.maximum(covers, cv2.warpAffine(cover, (two @ there[0])[:2], (WIDTH, HEIGHT)))
        swept = float((covers > 0.5).mean())
        return Truth(camera / DIAGONAL, subject / DIAGONAL, float(area), float(whole.mean()), other, inside, swept)

    @cached_property
    def _dice(self) -> dict[str, Any]:
        dice = np.random.default_rng([self.seed, 77])
        side = float(dice.choice([-1, 1]))
        return {
            "centre": dice.uniform(0.4, 0.6, 2),
            "direction": dice.uniform(0, 2 * np.pi),
            "pace": dice.uniform(0.6, 1.4),
            "side": side,
            "zoom": side * dice.uniform(0.05, 0.14),
            "turn": side * dice.uniform(0.05, 0.16),
            "place": np.array([dice.uniform(0.3, 0.7) * WIDTH, dice.uniform(0.35, 0.65) * HEIGHT]),
            "way": dice.uniform(0, 2 * np.pi),
            "swing": dice.uniform(0.35, 0.8),
            "phase": dice.uniform(0, 2 * np.pi),
            "kinds": [_thing(dice), _thing(dice)],
            "shake": dice.normal(0, 0.35, (4096, 2)),
        }

    @cached_property
    def _canvas(self) -> np.ndarray:
        return mosaic(self.seed) if self.ground is None else self.ground

    def _camera(self, number: int) -> np.ndarray:
        """(3, 3): from the ground to the picture."""
        dice, time = self._dice, self.speed * number / FPS
        height, width = self._canvas.shape[:2]
        centre = dice["centre"] * (width, height)
        zoom, turn = 1.0, 0.0
        if self.camera in ("pan", "all"):
            reach = 28 * dice["pace"] * time
            centre = centre + reach * np.array([np.cos(dice["direction"]), np.sin(dice["direction"])])
        if self.camera in ("zoom", "all"):
            zoom = float(np.exp(dice["zoom"] * time))
        if self.camera in ("turn", "all"):
            turn = dice["turn"] * time
        if self.camera == "shake":
            centre = centre + dice["shake"][number]
        cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
        turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        away, back = np.eye(3), np.eye(3)
        away[:2, 2], back[:2, 2] = -centre, (WIDTH / 2, HEIGHT / 2)
        return np.asarray(back @ turned @ away)

    def _thing(self, number: int) -> tuple[np.ndarray, Thing] | None:
        """((3, 3) from its drawing to the ground, the thing); None where there is none."""
        dice, time = self._dice, self.speed * number / FPS
        half = number >= len(self) // 2
        if self.subject == "none" or (self.subject == "gone" and half):
            return None
        angle, way = 0.0, np.zeros(2)
        if self.subject == "swing":
            angle = dice["swing"] * np.sin(dice["phase"] + 2.2 * time)
        if self.subject in ("away", "replaced"):
            way = 26 * dice["pace"] * time * np.array([np.cos(dice["way"]), np.sin(dice["way"])])
        place = dice["place"] + way + _corner(self._camera(0))
        scale = self.size / 32
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        matrix[:2, 2] = place - matrix[:2, :2] @ (16, 24 if self.subject == "swing" else 16)
        return matrix, dice["kinds"][1 if self.subject == "replaced" and half else 0]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: int = FPS,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """Encode frames, (H, W, 3) uint8."""
    import av

    container = av.open(str(path), "w")
    with container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                quality = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
                stream = container.add_stream(codec, rate=Fraction(fps), options={**quality, **options})
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = pixels
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode(None))
    return path


def dissolved(first: list[np.ndarray], second: list[np.ndarray], length: int) -> list[np.ndarray]:
    """Two shots, of which the last and the first `length` frames are mixed."""
    mixed = [
        np.asarray(one * (1 - share) + two * share + 0.5, np.uint8)
        for share, one, two in zip(np.linspace(0, 1, length + 2)[1:-1], first[-length:], second[:length], strict=True)
    ]
    return [*first[:-length], *mixed, *second[length:]]


def blurred(frame: np.ndarray, width: float, angle: float | None = None) -> np.ndarray:
    """A frame out of focus (Gaussian of `width` pixels), or with an angle smeared along it by a camera that moved."""
    if angle is None:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), width))
    side = int(2 * np.ceil(2 * width) + 1)
    kernel = np.zeros((side, side), np.float32)
    middle = side // 2
    reach = 2 * width * np.array([np.cos(angle), np.sin(angle)])
    start, end = (tuple(round(v) for v in middle + sign * reach) for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0, 1)
    return np.asarray(cv2.filter2D(frame, -1, kernel / kernel.sum()))


@cache
def mosaic(seed: int, columns: int = 14, rows: int = 10, side: int = 96) -> np.ndarray:
    """TagWorld scenes side by side, (960, 1344, 3) uint8."""
    tiles = [
        cv2.resize(
            render(sample(seed, number, task="recolour").target_scene), (side, side), interpolation=cv2.INTER_CUBIC
        )
        for number in range(columns * rows)
    ]
    lines = [np.concatenate(tiles[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    return np.concatenate(lines)


def _thing(dice: np.random.Generator) -> Thing:
    if dice.random() < 0.5:
        return Face(
            str(dice.choice(SKINS)),
            str(dice.choice(HAIRS)),
            bool(dice.random() < 0.5),
            str(dice.choice(HATS)) if dice.random() < 0.5 else None,
            str(dice.choice(EXPRESSIONS)),
        )
    return Item(str(dice.choice(SHAPES)), str(dice.choice(COLOURS)), str(dice.choice(TEXTURES)))


@cache
def _sprite(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    paint, cover = sprite(thing)
    cover = np.asarray(cover, np.float32)
    return np.asarray(paint, np.float32), cover if cover.ndim == 3 else cover[..., None]


def _carried(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:2, :2].T + matrix[:2, 2])


def _is_inside(points: np.ndarray) -> bool:
    return bool((points >= 0).all() and (points <= (WIDTH, HEIGHT)).all())


def _corner(camera: np.ndarray) -> np.ndarray:
    """The place of the ground that a camera shows at the corner of its picture."""
    return np.asarray(np.linalg.inv(camera)[:2, 2])
