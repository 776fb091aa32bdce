"""A pipeline as an editor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from PIL import Image

from tagmoe.editor import Editor, Picture
from tagmoe.pipeline.pipeline import TagMoEPipeline, TagMoEPipelineOutput


def pipeline_editor(
    pipeline: TagMoEPipeline,
    *,
    steps: int | None = None,
    cfg: float | None = None,
    return_routing: str | None = None,
    on_routing: Callable[[Sequence[int], list[Any]], None] | None = None,
) -> Editor:
    """A pipeline as an editor. on_routing: called with each batch's seeds and routing, one entry a denoising step."""
    # The caller may show one bar over all cases. A bar for each batch would hide it.
    pipeline.set_progress_bar_config(disable=True)

    def editor(
        instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        output = cast(
            TagMoEPipelineOutput,
            pipeline(
                list(instructions),
                [list(pictures) for pictures in images] if images[0] else None,
                num_inference_steps=steps,
                true_cfg_scale=cfg,
                seed=list(seeds),
                return_routing=return_routing,
            ),
        )
        if output.routing is not None and on_routing is not None:
            on_routing(seeds, output.routing)
        return list(output.images)

    return editor
