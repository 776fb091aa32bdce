"""Does an expert follow the edit, or the content of the region? Compare a region of a picture edited and not edited.

Edit masks lie over objects. So an expert that prefers objects to background is concentrated in masks, whatever the
instruction says. Here two cases have the same picture and noise: one edits the region, the other edits elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np

from tagmoe.intervals import Bootstrap, Interval
from tagmoe.routing.reading import Recording
from tagmoe.routing.recording import Case
from tagmoe.routing.specialization import RESAMPLES, mask_concentration


@dataclass(frozen=True)
class Region:
    """`mask_concentration` (L, N) of a region when it is edited, when another region is, and their difference.

    These are for the target's tokens. reference_difference: the difference for the tokens of the first reference, whose
    pixels are the same in both cases; None without one. Intervals resample pictures.
    """

    pairs: int
    edited: Interval[np.ndarray]
    other: Interval[np.ndarray]
    difference: Interval[np.ndarray]
    reference_difference: Interval[np.ndarray] | None


def regions(recording: Recording) -> Region | None:
    """Compare all pairs of cases with the same picture and noise whose masks do not overlap. None without such pairs.

    Raises ResultError for damaged tensors.
    """
    groups: dict[tuple[str, int], list[Case]] = {}
    for case in recording.cases:
        if case.has_mask and case.facts.image:
            groups.setdefault((case.facts.image, case.facts.seed), []).append(case)
    pairs: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    sources: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for (image, _), members in groups.items():
        for target, source in _compare(recording, members) if len(members) > 1 else ():
            pairs[image].append(target)
            if source is not None:
                sources[image].append(source)
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
    """For each ordered pair: the concentration of both cases in the first one's mask, (2, L, N), for the target and for
    the reference."""
    read = []
    for case in members:
        tokens = recording.tokens(case)
        same = len(case.grids) > 1 and case.grids[1] == case.grids[0]
        read.append((tokens.mask_hw, tokens.image(0).mean(axis=0), tokens.image(1).mean(axis=0) if same else None))
    found = []
    for (mask_hw, target, reference), (other_hw, other_target, other_reference) in product(read, repeat=2):
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
