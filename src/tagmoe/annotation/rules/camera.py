"""Find a camera move that explains a pair of pictures: the same scene mirrored, rotated or scaled (Fourier-Mellin).

Reddy and Chatterji (1996): the magnitude of the spectrum does not depend on shifts, and in log-polar coordinates a
rotation and a scale become a shift. Beyond a scale of about 1.5 too much of the view is new to find the move.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 64
"""Side in pixels of the squares that are compared."""
GAIN = 0.15
"""Least gain in correlation of a camera move over no move."""
FIT = 0.6
"""Least correlation of a move; unrelated scenes reach lower values by chance."""
MIN_TURN = 2.0
MIN_SCALE = 0.05
"""Least rotation in degrees, and least relative change of scale, of a move."""


class Camera(NamedTuple):
    """A camera move. mirrored: left and right. turn: degrees. scale: above 1 is nearer. fit: correlation after it."""

    mirrored: bool
    turn: float
    scale: float
    fit: float


STILL = Camera(False, 0.0, 1.0, 0.0)
"""The camera did not move."""


def layout_agreement(before: np.ndarray, after: np.ndarray) -> float:
    """Correlation, -1 to 1, of two pictures (H, W, 3) without a move: the higher of colours and edges."""
    return _agreement(_square(before), _square(after))


def camera_move(before: np.ndarray, after: np.ndarray, layout: float) -> Camera:
    """The best move from `before` to `after`, (H, W, 3) of one shape, or STILL. layout: `layout_agreement` of them."""
    first, second = _square(before), _square(after)
    mirror = first[:, ::-1]
    moves = [
        *_moves(first, second, mirrored=False),
        Camera(True, 0.0, 1.0, _agreement(mirror, second)),
        *_moves(mirror, second, mirrored=True),
    ]
    best = max(moves, key=lambda move: move.fit)
    return best if best.fit >= FIT and best.fit >= layout + GAIN else STILL


def _moves(first: np.ndarray, second: np.ndarray, *, mirrored: bool) -> list[Camera]:
    """The candidates that turn or scale by more than the least."""
    return [
        Camera(mirrored, turn, scale, _fit(first, second, turn, scale))
        for turn, scale in _similarity(first, second)
        if abs(turn) >= MIN_TURN or abs(scale - 1) >= MIN_SCALE
    ]


def _square(picture: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3) float32."""
    if picture.shape[:2] == (SIDE, SIDE):
        return picture.astype(np.float32)
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float32)


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    colours = _correlation(_blurred(first), _blurred(second))
    edges = _correlation(*(_blurred(_strength(picture.mean(-1))) for picture in (first, second)))
    return max(colours, edges)


def _blurred(values: np.ndarray) -> np.ndarray:
    """Means of blocks of 2 x 2 pixels, so that a shift of one pixel matters little."""
    height, width = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    v = values[:height, :width]
    return (v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]) / 4


def _strength(grey: np.ndarray) -> np.ndarray:
    down, across = np.gradient(grey)
    return np.hypot(down, across)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    one, two = first - first.mean((0, 1)), second - second.mean((0, 1))
    norm = float(np.sqrt((one * one).sum() * (two * two).sum()))
    return float((one * two).sum()) / norm if norm > 1e-3 * first.size else 0.0


def _similarity(first: np.ndarray, second: np.ndarray) -> list[tuple[float, float]]:
    """Candidates (degrees, scale) of the move. There are two, as a spectrum is the same after half a turn."""
    angles, radii = 128, 64
    base = (SIDE / 2) ** (1 / radii)
    maps = [_log_polar(picture.mean(-1), angles, radii, base) for picture in (first, second)]
    cross = np.fft.rfft2(maps[1]) * np.fft.rfft2(maps[0]).conj()
    surface = np.fft.irfft2(cross / (np.abs(cross) + 1e-6 * np.abs(cross).max() + 1e-12), s=(angles, radii))
    row, column = (int(place) for place in np.unravel_index(surface.argmax(), surface.shape))
    turn = 180.0 * (row - angles if row > angles // 2 else row) / angles
    scale = float(base ** -(column - radii if column > radii // 2 else column))
    if not 1 / 3 <= scale <= 3:
        return []
    return [(turn, scale), (turn - 180 if turn > 0 else turn + 180, scale)]


def _log_polar(grey: np.ndarray, angles: int, radii: int, base: float) -> np.ndarray:
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window)))
    # Suppress low frequencies, which come from the window and from the light.
    axis = np.cos(np.pi * np.linspace(-0.5, 0.5, SIDE))
    spectrum = np.log1p(spectrum) * (1 - np.outer(axis, axis)) * (2 - np.outer(axis, axis))
    angle = np.pi * np.arange(angles)[:, None] / angles
    radius = base ** np.arange(radii)[None, :]
    places = [SIDE / 2 + radius * np.sin(angle), SIDE / 2 + radius * np.cos(angle)]
    return ndimage.map_coordinates(spectrum, places, order=1, mode="constant")


def _fit(first: np.ndarray, second: np.ndarray, turn: float, scale: float) -> float:
    """Correlation after the move and the best shift, over the pixels that both pictures cover."""
    angle = np.deg2rad(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = (SIDE - 1) / 2
    offset = centre - matrix @ (centre, centre)
    moved = [ndimage.affine_transform(first[..., i], matrix, offset, order=1, cval=np.nan) for i in range(3)]
    picture = np.stack(moved, -1)
    covered = ~np.isnan(picture[..., 0])
    if covered.mean() < 0.25:
        return 0.0
    picture = np.where(covered[..., None], picture, np.nanmean(picture, (0, 1)))
    cross = np.fft.rfft2(second.mean(-1) - second.mean()) * np.fft.rfft2(picture.mean(-1) - picture.mean()).conj()
    surface = np.fft.irfft2(cross / (np.abs(cross) + 1e-6), s=(SIDE, SIDE))
    dy, dx = (int(place) for place in np.unravel_index(surface.argmax(), surface.shape))
    picture, covered = (np.roll(values, (dy, dx), (0, 1)) for values in (picture, covered))
    shared = covered.copy()
    for axis, step in ((0, dy), (1, dx)):
        signed = step - SIDE if step > SIDE // 2 else step
        lost: list[slice] = [slice(None), slice(None)]
        lost[axis] = slice(0, signed) if signed >= 0 else slice(signed, None)
        if signed:
            shared[tuple(lost)] = False
    if shared.mean() < 0.2:
        return 0.0
    one, two = picture[shared], second[shared]
    one, two = one - one.mean(0), two - two.mean(0)
    norm = float(np.sqrt((one * one).sum() * (two * two).sum()))
    return float((one * two).sum()) / norm if norm > 0 else 0.0
