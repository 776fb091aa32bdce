"""Tell the motion of the camera from that of the subject, for two frames of one shot.

1. The camera: a homography (MAGSAC++ on SIFT matches, Lowe 2004, Barath et al. 2020) that carries the first frame onto
   the second. Matches of a large subject may outnumber those of the ground, so a second one is fitted to what the first
   leaves, and "no motion" is tried, too. The one that explains most of the picture is the camera's.
2. The subject: what has changed once the camera's motion is undone.
3. How far the subject moved: by matches within what has changed, and by dense flow (DIS, Kroeger et al. 2016) where
   there are too few. What no flow explains came into view, went out of it, or is another thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

WORK_SIDE = 384
"""Longer side of the copies that are compared, in pixels."""
FEATURES = 1500
RATIO = 0.8
"""A match is taken if the second best is farther by this factor (Lowe)."""
NEAR = 2.0
"""Pixels of the copy by which a match may miss its homography."""
LEAST_MATCHES = 12
"""Fewer matches do not make a homography."""
BETTER = 0.01
"""Share of the picture that a motion must explain beyond "no motion"."""
LARGEST_ZOOM = 3.0
"""A homography with a larger change of scale is a mistake."""
STRUCTURE = 12.0
"""Levels by which the surroundings of a pixel vary that has structure."""
CELLS = 10
"""Parts of each side of the picture that count alike."""
RICH = 0.03
"""Share of the pixels of a cell that have structure, from which the others do not count."""
CHANGED = 24.0
"""Levels by which a pixel lies outside the range of its neighbourhood in the other frame once it has changed."""
SMALLEST = 0.0015
"""Share of the picture below which a changed region is noise."""
LEAST_TRACKS = 5
"""Matches that tell how far the subject moved."""
SPREAD = 0.25
"""Share of the picture that matches must span to tell of depth."""
BINS = 6
"""Levels of each channel of the colours that are compared."""


@dataclass(frozen=True)
class Motion:
    """What moved. Lengths are shares of the diagonal, areas shares of the picture.

    camera: how far the camera carries the middle pixel of the picture's pixels. zoom: factor; turn: degrees. matches:
    that fit the camera's homography; 0 for "no motion" without any. aligned: how much of the picture looks alike
    once the camera's motion is undone. overlap: area that both frames show. changed: area that changed
    then. subject: how far the subject moved. travel: the same over the side of a square as large
    as a changed region. unexplained: area whose look no motion explains. same: share of the colours of the changed area
    that both have. regions: number of those that changed. depth: share of the matches that the camera's homography does
    not fit and one motion in depth (a fundamental matrix) does; 0 unless they lie all over the picture. Near and far
    things of a scene at rest move apart so.
    """

    camera: float
    zoom: float
    turn: float
    matches: int
    aligned: float
    overlap: float
    changed: float
    subject: float
    travel: float
    unexplained: float
    same: float
    regions: int
    depth: float


def measure(first: np.ndarray, second: np.ndarray) -> Motion:
    """The motion between two pictures, (H, W, 3) uint8 of one shape."""
    import cv2

    one, two = (work_copy(picture) for picture in (first, second))
    height, width = one.shape[:2]
    diagonal = float(np.hypot(width, height))
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, two)]
    here, there = _matches(*greys)
    best, best_score, inside, aligned, matches = np.eye(3), -1.0, np.ones(greys[0].shape, bool), 0.0, 0
    for place, matrix in enumerate((np.eye(3), *_homographies(here, there, one.shape[:2]))):
        warped, seen = _warped(one, matrix)
        share = _explained(warped, two, seen)
        score = share * float(seen.mean()) ** 0.5 + (BETTER if place == 0 else 0.0)
        if score > best_score:
            best, best_score, inside, aligned = matrix, score, seen, share
            matches = int(_fits(here, there, matrix).sum()) if len(here) else 0
    warped, _ = _warped(one, best)
    mask, sizes = _regions(_beyond(warped, two) > CHANGED, inside)
    changed = float(mask.mean())
    far, unexplained = _subject(warped, two, mask)
    zoom = float(np.sqrt(abs(np.linalg.det(best[:2, :2] / best[2, 2]))))
    return Motion(
        camera=_reach(best, width, height) / diagonal,
        zoom=zoom,
        turn=float(np.degrees(np.arctan2(best[1, 0] - best[0, 1], best[0, 0] + best[1, 1]))),
        matches=matches,
        aligned=aligned,
        overlap=float(inside.mean()),
        changed=changed,
        subject=far / diagonal,
        travel=far / float(np.sqrt((sizes**2).sum() / sizes.sum())) if changed else 0.0,
        regions=len(sizes),
        depth=_depth(here, there, best, one.shape[:2]),
        unexplained=unexplained,
        same=_same_colours(warped, two, mask) if changed else 1.0,
    )


def work_copy(picture: np.ndarray) -> np.ndarray:
    """A copy of at most WORK_SIDE pixels a side."""
    import cv2

    height, width = picture.shape[:2]
    scale = WORK_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _matches(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) of points that look alike in both grey pictures, and only there. mask: where to look for them."""
    import cv2

    sift = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=0.02)
    (points, looks), (others, other_looks) = (sift.detectAndCompute(grey, mask) for grey in (first, second))
    if looks is None or other_looks is None or min(len(looks), len(other_looks)) < 2:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    found = cv2.BFMatcher(cv2.NORM_L2).knnMatch(looks, other_looks, k=2)
    good = [pair[0] for pair in found if len(pair) == 2 and pair[0].distance < RATIO * pair[1].distance]
    here = np.array([points[match.queryIdx].pt for match in good], np.float32).reshape(-1, 2)
    there = np.array([others[match.trainIdx].pt for match in good], np.float32).reshape(-1, 2)
    return here, there


def _homographies(here: np.ndarray, there: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The homography of most matches, then that of most of the others."""
    import cv2

    for _ in range(2):
        if len(here) < LEAST_MATCHES:
            return
        matrix, fits = cv2.findHomography(here, there, cv2.USAC_MAGSAC, NEAR, maxIters=3000, confidence=0.999)
        if matrix is None or fits is None or fits.sum() < LEAST_MATCHES:
            return
        if _is_a_camera(matrix, shape):
            yield matrix
        left = ~fits.ravel().astype(bool)
        here, there = here[left], there[left]


def _is_a_camera(matrix: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a homography keeps the picture's corners in order, and its scale within reason."""
    corners = _carried(matrix, _corners(shape[1], shape[0]))
    if not np.isfinite(corners).all():
        return False
    sides = np.roll(corners, -1, axis=0) - corners
    crossed = sides[:, 0] * np.roll(sides, -1, axis=0)[:, 1] - sides[:, 1] * np.roll(sides, -1, axis=0)[:, 0]
    along = corners[:, 0] * np.roll(corners, -1, axis=0)[:, 1] - np.roll(corners, -1, axis=0)[:, 0] * corners[:, 1]
    scale = float(np.sqrt(abs(along.sum()) / 2 / (shape[0] * shape[1])))
    return bool((crossed > 0).all()) and 1 / LARGEST_ZOOM < scale < LARGEST_ZOOM


def _corners(width: int, height: int) -> np.ndarray:
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)


def _carried(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 2) after a homography."""
    x, y, w = matrix @ np.vstack([points.T, np.ones(len(points))])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([x / w, y / w], axis=1)


def _fits(here: np.ndarray, there: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(*(_carried(matrix, here) - there).T) <= 2 * NEAR)


def _reach(matrix: np.ndarray, width: int, height: int) -> float:
    """The median length by which a homography moves the pixels of the picture."""
    grid = np.stack(np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 9)), axis=-1).reshape(-1, 2)
    return float(np.median(np.hypot(*(_carried(matrix, grid) - grid).T)))


def _warped(picture: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture after a homography, and where it has pixels."""
    import cv2

    height, width = picture.shape[:2]
    if np.array_equal(matrix, np.eye(3)):
        return picture, np.ones((height, width), bool)
    warped = cv2.warpPerspective(picture, matrix, (width, height), flags=cv2.INTER_LINEAR)
    whole = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, (width, height))
    return np.asarray(warped), np.asarray(cv2.erode(whole, np.ones((5, 5), np.uint8))) == 255


def _explained(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> float:
    """How much of the picture looks alike in both, 0 to 1: the mean over cells of the share of pixels that do.

    In a cell with structure only that counts, because flat pixels look alike after any motion. Cells count alike, so
    that a thing with much structure does not outweigh a plain ground.
    """
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    varies = np.zeros(inside.shape, bool)
    for picture in (first, second):
        spread = cv2.dilate(picture, kernel).astype(np.int16) - cv2.erode(picture, kernel)
        varies |= _most(spread) > STRUCTURE
    alike = _beyond(first, second) <= CHANGED
    seen, structure = _cells(inside), _cells(inside & varies)
    rich = structure >= RICH
    shares = np.where(rich, _cells(inside & varies & alike), _cells(inside & alike)) / np.maximum(
        np.where(rich, structure, seen), 1e-6
    )
    counted = seen >= 0.5
    return float(shares[counted].mean()) if counted.any() else 0.0


def _cells(mask: np.ndarray) -> np.ndarray:
    """The share of true pixels in each of CELLS x CELLS parts of the picture."""
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA))


def _beyond(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(H, W): levels by which a pixel of either picture lies outside the 3x3 range of the other."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    found = np.zeros(first.shape[:2], np.int16)
    for one, other in ((first, second), (second, first)):
        low, high = cv2.erode(other, kernel).astype(np.int16), cv2.dilate(other, kernel).astype(np.int16)
        found = np.maximum(found, _most(np.maximum(one - high, low - one)))
    return found


def _most(values: np.ndarray) -> np.ndarray:
    """The largest of three channels; NumPy takes ten times as long along a short axis."""
    return np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])


def _regions(changed: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The changed pixels, closed to regions, without small ones; and the number of pixels of each region."""
    import cv2

    mask = (changed & inside).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    count, labels, sizes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = sizes[:, cv2.CC_STAT_AREA].astype(np.float64)
    large = (np.arange(count) > 0) & (areas >= SMALLEST * mask.size)
    return np.asarray(large[labels] & inside), areas[large]


def _subject(warped: np.ndarray, second: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """(how far the subject moved in pixels, the share of the picture that no motion explains)."""
    import cv2

    if not mask.any():
        return 0.0, 0.0
    dense = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    one, two = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (warped, second))
    back = dense.calc(two, one, None)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    moved = cv2.remap(
        warped, columns + back[..., 0], rows + back[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    left = (_beyond(moved, second) > CHANGED) & mask
    tracks = _tracks(one, two, mask)
    if len(tracks) >= LEAST_TRACKS:
        return float(np.median(tracks)), float(left.mean())
    lengths = np.hypot(back[..., 0], back[..., 1])[mask & ~left]
    moving = lengths[lengths > 1.0]
    return (float(np.median(moving)) if moving.size else 0.0), float(left.mean())


def _tracks(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How far the points of the subject went, by the most of them that moved as one.

    Only what changed is matched, so that a look that comes again elsewhere in the picture does not matter.
    """
    import cv2

    here, there = _matches(first, second, cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)))
    on = np.hypot(*(here - there).T) > NEAR if len(here) else np.zeros(0, bool)
    here, there = here[on], there[on]
    if len(here) < LEAST_TRACKS:
        return np.zeros(0)
    _, fits = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=2 * NEAR)
    if fits is None:
        return np.zeros(0)
    return np.asarray(np.hypot(*(here - there).T)[fits.ravel().astype(bool)])


def _depth(here: np.ndarray, there: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> float:
    """The figure `depth` of Motion."""
    import cv2

    if len(here) < 2 * LEAST_MATCHES:
        return 0.0
    others = ~_fits(here, there, matrix)
    if others.sum() < LEAST_MATCHES:
        return 0.0
    # On one thing that moves over a plain ground a fundamental matrix fits, too: it says nothing.
    spread = cv2.contourArea(cv2.convexHull(there[others])) / (shape[0] * shape[1])
    if spread < SPREAD:
        return 0.0
    found, fits = cv2.findFundamentalMat(here, there, cv2.USAC_MAGSAC, NEAR, 0.999, 3000)
    if found is None or fits is None:
        return 0.0
    return float(fits.ravel()[others].mean())


def _same_colours(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """The share of the colours of the changed area that both pictures have there.

    Where a subject moved, its old and its new place are both in the area, so it holds the same colours, in other
    places. Where something came, went or was replaced, it does not.
    """
    return float(np.minimum(_histogram(first[mask]), _histogram(second[mask])).sum())


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """(BINS ** 3,) shares of the colours of (n, 3) pixels, each dealt to the two nearest levels of a
    channel, so that noise does not move it from one to the next."""
    place = pixels.astype(np.float32) / 255 * (BINS - 1)
    low = np.minimum(place.astype(np.int64), BINS - 2)
    rest = place - low
    found = np.zeros(BINS**3)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, rest, 1 - rest), axis=1)
        bins = ((low + corner) * (BINS**2, BINS, 1)).sum(axis=1)
        found += np.bincount(bins, weight, BINS**3)
    return found / len(pixels)
