"""Score the tags that routing predicts on TagWorld: edit cases, predict tags from each signature, and compare.

The truth is the cases' own tags. Predictions are chosen among the sets that TagWorld's rules can give, as `--explain`
does. On training cases this was right more often than choosing among all consistent sets (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tagmoe.evaluate.tagworld_pipeline import edit
from tagmoe.intervals import wilson
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.routing.predicted_tags import Alignment, TagScore, score, signature
from tagmoe.routing.tags_right import TagsRight, checksum
from tagmoe.world import Sample, rule_sets


def signatures(
    pipeline: TagMoEPipeline,
    samples: Sequence[Sample],
    *,
    batch: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Edit the cases and return the routing signature g of each, (cases, N). Case i gets seed + i."""
    found = edit(pipeline, samples, batch=batch, seed=seed, read=signature, routing="stats", on_batch=on_batch)
    return torch.stack(found.routing or [])


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
