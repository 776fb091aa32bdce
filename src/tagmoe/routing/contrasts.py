"""What moves the routing: the task, the picture, or the noise? Pairs of cases that differ in one of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.intervals import Bootstrap, Interval
from tagmoe.routing.recording import Facts
from tagmoe.routing.specialization import RESAMPLES

PAIRS = {
    "same picture and instruction, other noise": "noise",
    "same picture and task, other instruction": "wording",
    "same instruction, other picture": "picture",
    "same picture, other task": "task",
}


@dataclass(frozen=True)
class Contrast:
    """How far apart the signatures of pairs of one kind are: total variation, 0 to 1, mean over layers."""

    kind: str
    about: str
    pairs: int
    distance: Interval[float]


@dataclass(frozen=True)
class Variance:
    """Of a crossed table: shares of the signature's variance by source, and what each would get by chance alone.

    Sources: picture, task, instruction (within a task), rest (their interaction). They sum to 1.
    """

    pictures: int
    instructions: int
    share: dict[str, float]
    by_chance: dict[str, float]


def distances(signature_CLN: np.ndarray) -> np.ndarray:
    """Total variation between the signatures of all cases, mean over layers: (C, C), 0 equal, 1 disjoint."""
    flat = signature_CLN.reshape(len(signature_CLN), -1)
    layers = signature_CLN.shape[1]
    return np.stack([np.abs(flat - row).sum(axis=1) for row in flat]) / (2 * layers)


def contrasts(signature_CLN: np.ndarray, facts: Sequence[Facts]) -> list[Contrast]:
    """The contrasts for which there are pairs, in the order of `PAIRS`; cases without a picture make no pair.

    Pairs of one picture (or, for other pictures, of one instruction) are not independent: they are averaged first, and
    the interval resamples pictures (instructions).
    """
    apart = distances(signature_CLN)
    pairs: dict[str, dict[str, list[float]]] = {kind: {} for kind in PAIRS.values()}
    number = dict.fromkeys(pairs, 0)
    for i, a in enumerate(facts):
        for j in range(i + 1, len(facts)):
            kind, unit = _kind(a, facts[j])
            if kind:
                pairs[kind].setdefault(unit, []).append(float(apart[i, j]))
                number[kind] += 1
    bootstrap = Bootstrap(RESAMPLES)
    return [
        Contrast(kind, about, number[kind], bootstrap.mean(np.array([np.mean(unit) for unit in pairs[kind].values()])))
        for about, kind in PAIRS.items()
        if pairs[kind]
    ]


def _kind(a: Facts, b: Facts) -> tuple[str, str]:
    """The one thing in which two cases differ, and what they share; ("", "") when it is not one thing."""
    same_picture, same_words, same_noise = a.image == b.image, a.instruction == b.instruction, a.seed == b.seed
    if not a.image or not b.image:
        return "", ""
    if same_picture and same_words:
        return ("", "") if same_noise else ("noise", a.image)
    if not same_noise:
        return "", ""
    if same_picture and a.task is not None and b.task is not None:
        return ("wording" if a.task == b.task else "task"), a.image
    return ("picture", a.instruction) if same_words else ("", "")


def variance(signature_CLN: np.ndarray, facts: Sequence[Facts]) -> Variance | None:
    """Split the variance of a crossed table of pictures and instructions by two-way analysis of variance.

    Of several noises the first is taken. None when the pictures do not each meet every instruction, two of each at
    least, of two tasks at least.
    """
    cells: dict[tuple[str, str], int] = {}
    task_of: dict[str, str] = {}
    for index, one in enumerate(facts):
        if one.image and one.task is not None:
            cells.setdefault((one.image, one.instruction), index)
            task_of[one.instruction] = one.task
    pictures = list(dict.fromkeys(image for image, _ in cells))
    words = list(dict.fromkeys(text for _, text in cells))
    p, q, t = len(pictures), len(words), len(set(task_of.values()))
    if p < 2 or t < 2 or q <= t or len(cells) != p * q:
        return None
    table = np.stack([[signature_CLN[cells[image, text]].ravel() for text in words] for image in pictures])
    table = table - table.mean(axis=(0, 1))
    by_picture, by_words = table.mean(axis=1), table.mean(axis=0)
    labels = np.array([task_of[text] for text in words])
    by_task = np.stack([by_words[labels == label].mean(axis=0) for label in labels])
    total = float((table**2).sum())
    if total < 1e-20:
        return None
    squares = {
        "picture": q * float((by_picture**2).sum()),
        "task": p * float((by_task**2).sum()),
        "instruction": p * float(((by_words - by_task) ** 2).sum()),
    }
    squares["rest"] = total - sum(squares.values())
    freedom = {"picture": p - 1, "task": t - 1, "instruction": q - t, "rest": (p - 1) * (q - 1)}
    return Variance(
        pictures=p,
        instructions=q,
        share={name: value / total for name, value in squares.items()},
        by_chance={name: value / (p * q - 1) for name, value in freedom.items()},
    )
