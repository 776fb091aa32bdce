"""Pairs of an output and references that show a face, a subject or a style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tagmoe.evaluate.benchmarks.cases import Case, Manifest, Prepared, digest_of_cases
from tagmoe.evaluate.metrics.metric import Pair


def pairs_of(folder: Path, cases: list[Case], outputs: list[Image.Image]) -> list[Pair]:
    """These cases, whose pictures lie in the folder, with their outputs."""
    tasks = {task: sum(case.task == task for case in cases) for task in sorted({case.task for case in cases})}
    manifest = Manifest(
        benchmark="x",
        licence="",
        made_from="",
        settings={},
        cases=len(cases),
        tasks=tasks,
        digest=digest_of_cases(cases),
    )
    prepared = Prepared(folder, manifest, tuple(cases))
    return [Pair(case, output, prepared) for case, output in zip(cases, outputs, strict=True)]


def reference_pairs(folder: Path, shows: str, count: int = 5) -> list[Pair]:
    """Cases of two references each, and outputs, of smooth noise and of several sizes."""
    generator = np.random.default_rng(7)

    def picture(width: int, height: int) -> Image.Image:
        low = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        return low.resize((width, height), Image.Resampling.BICUBIC)

    for number in range(count + 1):
        picture(48 + 3 * number, 40).save(folder / f"{number}.png")
    cases = [
        Case(
            bench="x",
            id=f"{shows} {number}",
            task="r",
            instruction="x",
            refs=(f"{number}.png", f"{number + 1}.png"),
            meta={"reference": shows},
        )
        for number in range(count)
    ]
    return pairs_of(folder, cases, [picture(64, 50 + number) for number in range(count)])
