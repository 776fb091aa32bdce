"""Outputs that no judge may believe: a judge that does measures something else than the edit."""

from __future__ import annotations

import numpy as np

from .edits import LEAST_CHANGE
from .looks import edges, grey, night
from .sample import Sample


def attacks(case: Sample, other: Sample) -> dict[str, np.ndarray]:
    """Wrong outputs for a case, (S, S, 3) uint8, by name. other: another case of the same task.

    Those that would be right for the case's task, or that hardly differ from its target, are left out.
    """
    mean = case.target.mean(axis=(0, 1)).astype(np.uint8)
    found = {
        "first input": case.sources[0],
        "last input": case.sources[-1],
        "picture before": case.before,
        "black": np.zeros_like(case.target),
        "mean colour": np.broadcast_to(mean, case.target.shape).copy(),
        "target shifted by 2": np.roll(case.target, 2, 1),
        "target shifted by 3, 3": np.roll(case.target, (3, 3), (0, 1)),
        "target mirrored": case.target[:, ::-1].copy(),
        "another pair's target": other.target,
        "edges of the picture": edges(case.before),
    }
    if case.task != "night":
        found["night of the picture"] = night(case.before)
    if case.task not in ("style", "grey"):
        found["grey of the picture"] = grey(case.before)
    if case.task not in ("restore", "enlarge", "structure"):
        # Of lost detail every step back counts, so half of it is no attack.
        found["half done"] = ((case.before.astype(np.float32) + case.target) / 2).astype(np.uint8)
    if case.task != "structure":
        # A structure map leaves the colours free.
        found["negative of the target"] = 255 - case.target
    if not case.mask.all():
        damaged = case.target.copy()
        damaged[~case.mask] = 255 - damaged[~case.mask]
        found["target, the rest in negative"] = damaged
    return {name: output for name, output in found.items() if _differs(output, case)}


def _differs(output: np.ndarray, case: Sample) -> bool:
    step = (output.astype(np.float32) - case.target) ** 2
    return float(step.mean()) >= LEAST_CHANGE**2 or float(step[case.mask].mean()) >= LEAST_CHANGE**2
