"""The same region of the same picture, edited or not: does an expert follow the edit, or what the region holds?

Edit masks lie over things, so an expert that prefers things to background is concentrated in them whatever the
instruction says. Here the picture and the noise are the same, and the region is edited in one case while in the other
the edit is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tagmoe.intervals import Bootstrap, Interval
from tagmoe.routing.reading import Recording
from tagmoe.routing.recording import Case
from tagmoe.routing.specialization import RESAMPLES, mask_concentration


@dataclass(frozen=True)
class Region:
    """`mask_concentration` (L, N) of a region where it is edited, where another is, and the difference of the two.

    Each of the tokens of the picture being made; `reference_difference` of those of the first reference, which are the
    same pixels in both (None without). Intervals resample pictures.
    """

    pairs: int
    edited: Interval[np.ndarray]
    other: Interval[np.ndarray]
    difference: Interval[np.ndarray]
    reference_difference: Interval[np.ndarray] | None


def regions(recording: Recording) -> Region | None:
    """Compare all pairs of cases of one picture and one noise whose masks do not touch; None where there is none.

    Raises ResultError for damaged tensors.
    """
    groups: dict[tuple[str, int], list[Case]] = {}
    for case in recording.cases:
        if case.has_mask and case.facts.image:
            groups.setdefault((case.facts.image, case.facts.seed), []).append(case)
    pairs: dict[str, list[np.ndarray]] = {}
    sources: dict[str, list[np.ndarray]] = {}
    for (image, _), members in groups.items():
        for target, source in _compare(recording, members) if len(members) > 1 else ():
            pairs.setdefault(image, []).append(target)
            if source is not None:
                sources.setdefault(image, []).append(source)
    if not pairs:
        return None
    edited, other = np.stack([np.mean(of_one, axis=0) for of_one in pairs.values()], axis=1)
    bootstrap = Bootstrap(RESAMPLES)
    difference = None
    if sources:
        source_edited, source_other = np.stack([np.mean(of_one, axis=0) for of_one in sources.values()], axis=1)
        difference = bootstrap.mean(source_edited - source_other)
    return Region(
        pairs=sum(len(of_one) for of_one in pairs.values()),
        edited=bootstrap.mean(edited),
        other=bootstrap.mean(other),
        difference=bootstrap.mean(edited - other),
        reference_difference=difference,
    )


def _compare(recording: Recording, members: list[Case]) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Of each ordered pair: the concentration in the first one's mask of the first and of the second case, (2, L, N),
    for the target and for the reference."""
    read = []
    for case in members:
        tokens = recording.tokens(case)
        same = len(case.grids) > 1 and case.grids[1] == case.grids[0]
        read.append((tokens.mask_hw, tokens.image(0).mean(axis=0), tokens.image(1).mean(axis=0) if same else None))
    found = []
    for mask_hw, target, reference in read:
        for other_hw, other_target, other_reference in read:
            if mask_hw is None or other_hw is None or mask_hw.shape != other_hw.shape or (mask_hw * other_hw).any():
                continue
            if not mask_hw.any() or not other_hw.any():
                continue
            both = np.stack([mask_concentration(image, mask_hw) for image in (target, other_target)])
            sources = None
            if reference is not None and other_reference is not None:
                sources = np.stack([mask_concentration(image, mask_hw) for image in (reference, other_reference)])
            found.append((both, sources))
    return found
