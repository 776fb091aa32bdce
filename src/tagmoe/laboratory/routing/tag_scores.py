"""How often the tags that routing predicts are right on TagWorld: edit cases, read tags off each signature, compare.

The truth is the cases' own tags, and the answers are chosen among the sets that TagWorld's rules can give: on training
cases that was right more often than choosing among all consistent sets (docs/log.md), and `--explain` does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tagmoe.evaluate.tagworld import run_cases
from tagmoe.intervals import wilson
from tagmoe.pipeline.editor import pipeline_editor
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.routing.predicted_tags import Alignment, TagScore, score, signature
from tagmoe.routing.tags_right import TagsRight, checksum
from tagmoe.world import Sample, rule_sets


def signatures(
    pipeline: TagMoEPipeline,
    samples: Sequence[Sample],
    *,
    steps: int | None = None,
    cfg: float | None = None,
    batch: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """The routing signature g of every case, (cases, N), from editing them; case i gets seed + i."""
    found: dict[int, torch.Tensor] = {}

    def keep(seeds: Sequence[int], routing: list[Any]) -> None:
        # run_cases puts cases with as many references into one call; the seed says which case it is.
        found.update(zip((one - seed for one in seeds), signature(routing), strict=True))

    editor = pipeline_editor(pipeline, steps=steps, cfg=cfg, return_routing="stats", on_routing=keep)
    run_cases(editor, samples, batch=batch, seed=seed, on_batch=on_batch)
    return torch.stack([found[i] for i in range(len(samples))])


def measure(
    pipeline: TagMoEPipeline,
    alignment: Alignment,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> TagScore:
    """Score the tags predicted for every case, with the model's own steps and guidance."""
    found = alignment.predict(signatures(pipeline, samples, seed=seed, on_batch=on_batch), candidates=rule_sets())
    return score(found, [case.tags for case in samples])


def tags_right(found: TagScore, pipeline: TagMoEPipeline, folder: Path, *, seed: int, command: str) -> TagsRight:
    """The figures to keep in the model folder that was measured."""
    exact = wilson(round(found.exact * found.n), found.n)
    return TagsRight(
        cases=found.n,
        exact=found.exact,
        exact_low=exact.low,
        exact_high=exact.high,
        f1=found.f1,
        baseline_exact=found.baseline_exact,
        baseline_f1=found.baseline_f1,
        seed=seed,
        steps=pipeline.config.default_steps,
        cfg=pipeline.config.default_cfg,
        command=command,
        weights=checksum(folder),
    )
