"""Token maps over the picture (Fig. 6 right): the gate's score of every token for every expert, for the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tagmoe.pictures import data_address
from tagmoe.report.colours import DARK, LIGHT, rgb, series_colour
from tagmoe.routing.reading import Recording
from tagmoe.routing.recording import Case

MAPPED_CASES = 6
MAP_LAYERS = 4
# What the scores of one case may take in the page, and how fine a map may be.
MAP_BYTES = 240_000
MAP_SIDE = 32
_NAMES = ("output", "source0")


@dataclass(frozen=True)
class TokenMaps:
    """The maps of one image of a case. picture: data address of what lies below. overlays[layer][expert]: data
    addresses, mean over steps. scores: base64 of uint8 (steps, layers, h, w, experts), 0 lowest to 255 highest."""

    picture: str
    mask: str | None
    overlays: list[list[str]]
    scores: str
    height: int
    width: int


@dataclass(frozen=True)
class MappedCase:
    """A case for the page. layers: numbers (from 0) of those shown; low, high: the scores of no and of full colour."""

    case: Case
    title: str
    layers: list[int]
    experts: int
    timesteps: list[float]
    low: float
    high: float
    target: TokenMaps
    reference: TokenMaps | None


def mapped_cases(recording: Recording, mixed_L: np.ndarray) -> list[MappedCase]:
    """A few cases of different tasks; those with an edit mask first, and of each task one that succeeded.

    mixed_L: how mixed the routing of each layer is; of more than four layers the most mixed are shown.
    """
    by_task: dict[str | None, list[Case]] = {}
    for case in recording.cases:
        if not case.facts.control:
            by_task.setdefault(case.facts.task, []).append(case)
    groups = list(by_task.values()) if len(by_task) > 1 else [[case] for group in by_task.values() for case in group]
    best = [min(group, key=lambda case: (not case.has_mask, case.success is False)) for group in groups]
    masked = [case for case in best if case.has_mask]
    pool = masked if len(masked) >= MAPPED_CASES else best
    chosen = [pool[int(i)] for i in np.linspace(0, len(pool) - 1, min(MAPPED_CASES, len(pool))).round()]
    layers = sorted(int(i) for i in np.argsort(-mixed_L, kind="stable")[:MAP_LAYERS])
    return [_mapped(recording, case, layers) for case in chosen]


def address(picture: np.ndarray) -> str:
    """A picture as a data: address."""
    return data_address(Image.fromarray(picture))


def _mapped(recording: Recording, case: Case, layers: list[int]) -> MappedCase:
    tokens = recording.tokens(case)
    images = [_pooled(tokens.image(0)[:, layers])]
    if "source0" in case.pictures and len(case.grids) > 1:
        images.append(_pooled(tokens.image(1)[:, layers]))
    low, high = min(float(i.min()) for i in images), max(float(i.max()) for i in images)
    step_bytes = sum(image[0].size for image in images)
    count = max(1, min(len(case.kept), MAP_BYTES // step_bytes))
    steps = [int(i) for i in np.unique(np.linspace(0, len(case.kept) - 1, count).round())]
    span = max(high - low, 1e-6)
    shown = [_maps(recording, case, name, image, steps, low, span) for name, image in zip(_NAMES, images, strict=False)]
    return MappedCase(
        case=case,
        title=case.facts.instruction,
        layers=layers,
        experts=images[0].shape[-1],
        timesteps=[case.timesteps[case.kept[i]] for i in steps],
        low=low,
        high=high,
        target=shown[0],
        reference=shown[1] if len(shown) > 1 else None,
    )


def _maps(
    recording: Recording, case: Case, name: str, image: np.ndarray, steps: list[int], low: float, span: float
) -> TokenMaps:
    scaled = np.clip((image - low) / span * 255, 0, 255).round().astype(np.uint8)
    mean = np.clip((image.mean(axis=0) - low) / span * 255, 0, 255).round().astype(np.uint8)
    mask = None
    if "mask" in case.pictures:
        mask = address(_outline(recording.picture(case.pictures["mask"])))
    return TokenMaps(
        picture=address(recording.picture(case.pictures[name])),
        mask=mask,
        overlays=[[_overlay(mean[layer, ..., n], n) for n in range(mean.shape[-1])] for layer in range(len(mean))],
        scores=base64.b64encode(np.ascontiguousarray(scaled[steps]).tobytes()).decode("ascii"),
        height=image.shape[2],
        width=image.shape[3],
    )


def _overlay(alpha_hw: np.ndarray, expert: int) -> str:
    rgba = np.zeros((*alpha_hw.shape, 4), dtype=np.uint8)
    rgba[..., :3] = rgb(series_colour(expert))
    rgba[..., 3] = (alpha_hw.astype(np.float32) * 0.92).astype(np.uint8)
    return address(rgba)


def _outline(mask_HW: np.ndarray) -> np.ndarray:
    """The rim of a mask as a picture (H, W, 4): dark, then white inside it, to be seen on any colour; else clear."""
    inside = mask_HW > 127 if mask_HW.ndim == 2 else mask_HW[..., 0] > 127
    rgba = np.zeros((*inside.shape, 4), dtype=np.uint8)
    for colour in (DARK["paper"], LIGHT["card"]):
        padded = np.pad(inside, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        rgba[inside & ~core] = (*rgb(colour), 255)
        inside = inside & core
    return rgba


def _pooled(scores: np.ndarray) -> np.ndarray:
    """Scores (K, L, h, w, N) with both sides at most `MAP_SIDE`, means over blocks of tokens; a part block is cut."""
    steps, layers, height, width, experts = scores.shape
    tall, wide = -(-height // MAP_SIDE), -(-width // MAP_SIDE)
    if tall == wide == 1:
        return scores
    rows, columns = height // tall, width // wide
    cut = scores[:, :, : rows * tall, : columns * wide]
    return np.asarray(cut.reshape(steps, layers, rows, tall, columns, wide, experts).mean(axis=(3, 5)))
