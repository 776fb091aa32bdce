"""Measure what changed between source and target, from the pixels and without a model.

Pictures are compared as copies of at most WORK_SIDE pixels, so that one core measures dozens of pairs a second. The
evidence is for reports and for the rule annotator. Where it contradicts tags (`conflicts`), the tags may still be
right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from tagmoe.annotation.rules.camera import STILL, Camera, camera_move, layout_agreement
from tagmoe.data.check.shift import measure_shift
from tagmoe.data.store.record import Record
from tagmoe.errors import ImageError
from tagmoe.pictures import load_image
from tagmoe.tags import TaskDescriptor

WORK_SIDE = 192
"""Longer side of the copies in pixels; smaller pictures are not scaled."""
CHANGED = 18
"""A pixel has changed if a channel lies this many levels outside the range of the neighbouring pixels. JPEG at quality
60 and resampling stay below it; edits that a person sees do not."""
MIN_REGION = 0.001
"""Least share of the picture of a changed region; smaller ones are noise of an encoder."""
GAP = 1 / 16
"""Largest gap between changed pixels of one region, as a share of the shorter side; a pattern has such gaps."""
FRAME = 1 / 12
"""Width of the border that stands for the background, as a share of each side; few subjects fill the border."""
ASPECT_TOLERANCE = 0.03
"""Tolerated relative difference of the aspects of a pair, as sizes are rounded to blocks of 8 or 16 pixels."""
MIN_SHIFT = 0.4
"""Least shift, in pixels of the copy, that is undone before pixels are compared."""


@dataclass(frozen=True)
class Evidence:
    """Measurements of a source and its target. Shares are 0 to 1; levels are of 8 bits, 0 to 255.

    identical: no pixel differs by more than 2 levels. changed_area: share of pixels that changed. regions: separate
    places that changed. background_kept: unchanged share of the border, which stands for the background. edges_kept:
    agreement (F1) of the edges of both pictures, whatever their brightness. luminance_shift: median levels by which the
    target is brighter. hue_range: range of hues of the target over that of the source; 0 for a picture in one tint.
    layout: correlation in place, -1 to 1. camera: the camera move that explains the pair, or STILL.
    """

    identical: bool
    changed_area: float
    regions: int
    background_kept: float
    edges_kept: float
    luminance_shift: float
    hue_range: float
    layout: float
    camera: Camera

    @property
    def whole_picture(self) -> bool:
        """Whether too much changed for an edit of one place."""
        return self.changed_area >= WHOLE_AREA


# Thresholds of `conflicts`. They are wide on purpose, as somebody must look at every row with a conflict.
WHOLE_AREA = 0.6
"""1.5 times the 40 % that a large local edit covers (a wall, a dress in a portrait)."""
LOCAL_AREA = 0.7
"""Hardly any single object covers more of a picture than this."""
GLOBAL_AREA = 0.08
"""An edit that changes less than a twelfth of the pixels changes one thing, not the whole picture."""
KEPT_FRAME = 0.5
"""If the background is preserved, half of the border is unchanged, even if an object covers one side."""
CHANGED_FRAME = 0.97
"""If the background was edited, hardly more of the border than this is unchanged."""
LIGHT_LEVELS = 4.0
"""A smaller change of the median brightness, in levels, is not visible as a change of light."""
ONE_TINT = 0.25
"""Range of hues over that of the source, below which a picture was toned (sepia, black and white)."""
MUCH_AREA = 0.3
"""Smaller changed areas do not count for style and structure: the edges of an added object are its own."""
STRUCTURE_EDGES = 0.25
"""Two unrelated photographs have an agreement of edges of about 0.3; below this, the structure is not preserved."""
SAME_LAYOUT = 0.97
"""Two different views of a scene have a lower correlation than this."""


def measure(record: Record) -> Evidence | None:
    """The evidence of a record with exactly one source or person picture, else None.

    Raises ImageError when a picture cannot be decoded.
    """
    sources = [picture for picture in record.images if picture.role in ("source", "person")]
    if len(sources) != 1:
        return None
    return compare(decode(sources[0].data), decode(record.target.data))


def decode(data: bytes) -> np.ndarray:
    """(h, w, 3) uint8 of an encoded picture, upright and on white. A JPEG is scaled to less than twice WORK_SIDE.

    Raises ImageError when it cannot be decoded, or has more than 64 megapixels.
    """
    try:
        return np.asarray(load_image(data, draft=(WORK_SIDE, WORK_SIDE)))
    except ImageError:
        raise ImageError("a picture cannot be decoded") from None


def compare(source: np.ndarray, target: np.ndarray) -> Evidence:
    """The evidence of two pictures, (H, W, 3) uint8, of any sizes.

    Raises ImageError for arrays of another shape or type.
    """
    for picture in (source, target):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise ImageError(f"a picture is an array of {picture.dtype} {picture.shape}; give uint8 (H, W, 3)")
    before, after = _paired(source, target)
    identical = bool(np.abs(before.astype(np.int16) - after).max() <= 2)
    shift = measure_shift(_grey(before), _grey(after))
    if shift is not None and np.hypot(*shift) >= MIN_SHIFT:
        before, after = _overlap(before, after, (round(shift[0]), round(shift[1])))
    mask, regions = _changed(before, after)
    first, second = _grey(before), _grey(after)
    layout = layout_agreement(before, after)
    looks_still = identical or mask.mean() < GLOBAL_AREA
    return Evidence(
        identical=identical,
        changed_area=float(mask.mean()),
        regions=regions,
        background_kept=1 - float(mask[_frame(mask.shape)].mean()),
        edges_kept=_edge_agreement(first, second),
        luminance_shift=float(np.median(second - first)),
        hue_range=_hue_range(before, after),
        layout=layout,
        camera=STILL if looks_still else camera_move(before, after, layout),
    )


def conflicts(evidence: Evidence | None, descriptor: TaskDescriptor) -> tuple[str, ...]:
    """Names of the contradictions between pixels and tags; empty without evidence."""
    if evidence is None:
        return ()
    scope, types, kept = set(descriptor.scope), set(descriptor.types), set(descriptor.preservation)
    if evidence.identical:
        return ("identical pictures",)
    # If the border is unchanged, an object moved, not the camera.
    moved = evidence.camera != STILL and evidence.background_kept < KEPT_FRAME
    found = {
        "local editing but most pixels changed": "local editing" in scope and evidence.changed_area > LOCAL_AREA,
        "global editing but few pixels changed": "global editing" in scope and evidence.changed_area < GLOBAL_AREA,
        "multi region editing but one region changed": "multi region editing" in scope and evidence.regions == 1,
        "multi region editing but most pixels changed": "multi region editing" in scope
        and evidence.changed_area > LOCAL_AREA,
        # Another viewpoint preserves the background as such, but not its place in the picture.
        "background preservation but the background changed": "background preservation" in kept
        and "viewpoint editing" not in scope
        and evidence.background_kept < KEPT_FRAME,
        "background editing but the background stayed": "background editing" in types
        and "content customization" not in scope
        and evidence.background_kept > CHANGED_FRAME
        and evidence.changed_area < GLOBAL_AREA,
        "illumination editing but the light stayed": "illumination editing" in types
        and abs(evidence.luminance_shift) < LIGHT_LEVELS
        and evidence.changed_area < GLOBAL_AREA,
        "structure preservation but the edges changed": "structure preservation" in kept
        and "style transfer" not in types
        and evidence.changed_area > MUCH_AREA
        and evidence.edges_kept < STRUCTURE_EDGES,
        "structure preservation but the camera moved": "structure preservation" in kept and moved,
        "viewpoint editing but the layout stayed": "viewpoint editing" in scope
        and evidence.camera == STILL
        and (evidence.layout > SAME_LAYOUT or evidence.changed_area < GLOBAL_AREA),
        "no viewpoint editing but the camera moved": bool(scope & {"local editing", "global editing"})
        and moved
        and evidence.camera.fit > SAME_LAYOUT,
        "style preservation but the picture is toned": "style preservation" in kept
        and not types & {"illumination editing", "background editing"}
        and evidence.whole_picture
        and evidence.hue_range < ONE_TINT,
    }
    return tuple(name for name, is_so in found.items() if is_so)


# Two pictures of one shape -----------------------------------------------------------------------------------------


def _paired(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of equal shape. Of another aspect, the target is stretched or cropped, whichever fits better."""
    longer = min(WORK_SIDE, max(source.shape[:2]), max(target.shape[:2]))
    scale = longer / max(source.shape[:2])
    size = (max(1, round(source.shape[1] * scale)), max(1, round(source.shape[0] * scale)))
    first, second = Image.fromarray(source), Image.fromarray(target)
    before = np.asarray(_small(first, size))
    stretched = np.asarray(_small(second, size))
    ratio = first.width * second.height / (first.height * second.width)
    if abs(ratio - 1) <= ASPECT_TOLERANCE:
        return before, stretched
    cropped = np.asarray(ImageOps.fit(second, size, Image.Resampling.BOX))
    both = [float(np.abs(before.astype(np.int16) - copy).mean()) for copy in (stretched, cropped)]
    return before, stretched if both[0] <= both[1] else cropped


def _small(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _overlap(before: np.ndarray, after: np.ndarray, shift: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The parts of both pictures that show the same place, after undoing a shift by whole pixels."""
    dx, dy = shift
    height, width = before.shape[:2]
    first = before[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    second = after[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    return first, second


def _grey(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32 luma."""
    return picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


# Where it changed --------------------------------------------------------------------------------------------------


def _changed(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W) bool of changed pixels without small regions, and the number of regions."""
    first, second = _smooth(before), _smooth(after)
    mask = np.maximum(_beyond(first, second), _beyond(second, first)) > CHANGED
    reach = max(1, round(min(mask.shape) * GAP / 2))
    grown = ndimage.maximum_filter(mask, 2 * reach + 1)
    labels, count = ndimage.label(grown, np.ones((3, 3)))
    labels[~mask] = 0
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    large = sizes >= MIN_REGION * mask.size
    return large[labels], int(large.sum())


def _smooth(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) int16; large copies are blurred by one pixel against noise."""
    if min(picture.shape[:2]) < WORK_SIDE // 2:
        return picture.astype(np.int16)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.BoxBlur(1))).astype(np.int16)


def _beyond(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W): levels by which a pixel lies outside the range of the 3 x 3 pixels of the other picture."""
    low, high = other, other
    for axis in (0, 1):
        low, high = _along(low, axis, np.minimum), _along(high, axis, np.maximum)
    outside = np.maximum(picture - high, low - picture)
    return np.maximum(np.maximum(outside[..., 0], outside[..., 1]), outside[..., 2])


def _along(values: np.ndarray, axis: int, of: np.ufunc) -> np.ndarray:
    result = values.copy()
    ahead: list[slice] = [slice(None)] * values.ndim
    back = list(ahead)
    ahead[axis], back[axis] = slice(1, None), slice(None, -1)
    of(result[tuple(ahead)], values[tuple(back)], out=result[tuple(ahead)])
    of(result[tuple(back)], values[tuple(ahead)], out=result[tuple(back)])
    return result


def _frame(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool, true in the border."""
    frame = np.ones(shape, dtype=bool)
    rows, columns = (max(1, round(side * FRAME)) for side in shape)
    frame[rows:-rows, columns:-columns] = False
    return frame


# What changed all over ---------------------------------------------------------------------------------------------


def _gradient(grey: np.ndarray) -> np.ndarray:
    """(H, W): magnitude of the gradient of the logarithm, which does not depend on a factor of brightness."""
    # The offset keeps noise in dark areas from becoming edges.
    bright = np.log(grey + 24)
    across, down = np.zeros_like(bright), np.zeros_like(bright)
    across[:, 1:-1] = bright[:, 2:] - bright[:, :-2]
    down[1:-1] = bright[2:] - bright[:-2]
    return np.hypot(across, down)


def _edges(grey: np.ndarray) -> np.ndarray:
    strength = _gradient(grey)
    # The strongest eighth of the pixels are edges; the other limits keep noise of flat pictures out.
    limit = max(float(np.quantile(strength, 0.875)), 0.25 * float(np.quantile(strength, 0.99)), 0.04)
    return strength > limit


def _edge_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """F1 of two edge maps, with a tolerance of one pixel; 1 if neither has an edge."""
    one, two = _edges(first), _edges(second)
    if not one.any() and not two.any():
        return 1.0
    if not one.any() or not two.any():
        return 0.0
    near = [_along(_along(edges, 0, np.logical_or), 1, np.logical_or) for edges in (one, two)]
    found, kept = float(near[0][two].mean()), float(near[1][one].mean())
    return 2 * found * kept / (found + kept) if found + kept else 0.0


def _hue_range(before: np.ndarray, after: np.ndarray) -> float:
    """Deviation of the target's colours from its main tint, over that of the source."""
    ranges = []
    for picture in (before, after):
        red, green, blue = (picture[..., i].astype(np.float32).ravel() for i in range(3))
        chroma = np.stack([red - green, blue - (red + green) / 2])
        # The tint may grow with brightness, so measure the second principal axis of the chroma about zero.
        ranges.append(float(np.sqrt(max(0.0, np.linalg.eigvalsh(chroma @ chroma.T / red.size)[0]))))
    return ranges[1] / ranges[0] if ranges[0] >= 4 else 1.0
