"""How often the tags that routing predicts are right on TagWorld: edit cases, read tags off each signature, compare.

The truth is the cases' own tags, which their rules give. Models other than TagWorld's have no such cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from PIL import Image

from tagmoe.evaluate.tagworld import Picture, run_editor
from tagmoe.pipeline import TagMoEPipeline, TagMoEPipelineOutput
from tagmoe.routing.predicted_tags import signature
from tagmoe.world import Sample


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
    pipeline.set_progress_bar_config(disable=True)

    def editor(
        instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        answer = pipeline(
            list(instructions),
            [list(pictures) for pictures in images] if images[0] else None,
            num_inference_steps=steps,
            true_cfg_scale=cfg,
            seed=list(seeds),
            return_routing="stats",
        )
        output = cast(TagMoEPipelineOutput, answer)
        assert output.routing is not None
        # run_editor puts cases with as many references into one call; the seed says which case it is.
        found.update(zip((one - seed for one in seeds), signature(output.routing), strict=True))
        return output.images

    run_editor(editor, samples, batch=batch, seed=seed, on_batch=on_batch)
    return torch.stack([found[i] for i in range(len(samples))])
