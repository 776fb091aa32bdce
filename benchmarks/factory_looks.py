"""How often the checks of made pictures find a blank, copied or shifted one, and how often they drop a true one.

    python benchmarks/factory_looks.py [--json] [--cases 5000]

Of each case of TagWorld the true target must pass. A picture of one colour, the source again and the source on a canvas
that has moved must not. Two harder faults are counted only: the source after JPEG, and the true target on a canvas that
has moved, of which a picture of 64x64 with one thing on a plain ground shows nothing. The thresholds were set on other
cases (seeds 11 and 12).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from figures import Figure, report
from PIL import Image

from tagmoe.data.sources.native_tasks import edit_of
from tagmoe.factory.looks import Limits, faults, numbers
from tagmoe.intervals import wilson
from tagmoe.world import SIZE, TASKS, sample

SEED = 4242
HARDER_EVERY = 5
"""Every so many cases the harder faults are tried as well."""
LONGEST = 6
"""Of a shift, in pixels along each side; the shortest is 2."""
COLOURS = ((0, 0, 0), (255, 255, 255), (128, 128, 128))


def measure(cases: int = 5000) -> Sequence[Figure]:
    """Shares with Wilson intervals over all tasks but text-to-image."""
    dice, limits = np.random.default_rng(SEED), Limits({})
    found: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    by_task: dict[str, Counter[str]] = {}
    for index in range(cases):
        case = sample(SEED, index, task=[task for task in TASKS if task != "generate"])
        edit, source = edit_of("tagworld", case.task), case.sources[0]
        tries = {
            "true": case.target,
            "blank": _blank(dice),
            "copied": _noisy(source, dice) if index % 2 else source,
            "shifted": _shifted(source, dice),
        }
        if index % HARDER_EVERY == 0:
            tries |= {"copied jpeg 90": _jpeg(source, 90), "shifted edit": _shifted(case.target, dice)}
        counts = by_task.setdefault(case.task, Counter())
        for name, picture in tries.items():
            wrong = faults(numbers(source, picture, edit), limits.of(edit))
            tried[name] += 1
            counts[name] += 1
            found[name] += bool(wrong)
            counts[f"{name} found"] += bool(wrong)
    figures = [_share(f"recall_{name}", found[name], tried[name], 0.99) for name in ("blank", "copied", "shifted")]
    figures.append(_share("false_alarms", found["true"], tried["true"], 0.01, at_least=False))
    worst = max(by_task, key=lambda task: by_task[task]["true found"] / by_task[task]["true"])
    counts = by_task[worst]
    figures.append(_share("false_alarms_worst_task", counts["true found"], counts["true"], None, worst))
    figures.append(_share("recall_copied_jpeg_90", found["copied jpeg 90"], tried["copied jpeg 90"], None))
    figures.append(_share("recall_shifted_edit", found["shifted edit"], tried["shifted edit"], None))
    for task, counts in sorted(by_task.items()):
        if counts["shifted edit"]:
            name = f"recall_shifted_edit_{task}"
            figures.append(_share(name, counts["shifted edit found"], counts["shifted edit"], None))
    return figures


def _share(name: str, count: int, of: int, wanted: float | None, note: str = "", *, at_least: bool = True) -> Figure:
    interval = wilson(count, of)
    said = f"{count} of {of}; 95 % from {interval.low:.4f} to {interval.high:.4f}"
    return Figure(name, count / of, "share", wanted, at_least, note=f"{note}: {said}" if note else said)


def _blank(dice: np.random.Generator) -> np.ndarray:
    colour = COLOURS[dice.integers(3)] if dice.random() < 0.75 else dice.integers(0, 256, 3)
    return np.full((SIZE, SIZE, 3), colour, np.uint8)


def _noisy(picture: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """With noise of 2 grey levels, as an autoencoder or a resize leaves it."""
    return np.clip(picture + dice.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def _shifted(picture: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Moved by 2 to LONGEST pixels in some direction; what comes in repeats the border."""
    while True:
        down, right = (int(number) for number in dice.integers(-LONGEST, LONGEST + 1, 2))
        if max(abs(down), abs(right)) >= 2:
            break
    padded = np.pad(picture, ((LONGEST, LONGEST), (LONGEST, LONGEST), (0, 0)), mode="edge")
    return padded[LONGEST - down : LONGEST - down + SIZE, LONGEST - right : LONGEST - right + SIZE]


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


if __name__ == "__main__":
    report(measure, {"cases": {"type": int, "default": 5000, "help": "cases of TagWorld"}})
