"""Run a model over cases and record its routing (paper 4.5). Cases are TagWorld's or a user's own pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image

from tagmoe.evaluate.tagworld import cases as draw_cases
from tagmoe.model.routing import RoutingTrace
from tagmoe.pipeline.pipeline import TagMoEPipeline, TagMoEPipelineOutput
from tagmoe.routing.recording import Facts, RecordingWriter, Shown
from tagmoe.world import Sample, judge


@dataclass(frozen=True)
class RoutingCase:
    """One case to run. mask: bool (H, W), True where the output may change. sample: the TagWorld sample that the oracle
    judges by, if there is one."""

    facts: Facts
    sources: tuple[Image.Image, ...] = ()
    target: np.ndarray | None = None
    mask: np.ndarray | None = None
    sample: Sample | None = None


@dataclass(frozen=True)
class Drawn:
    """The result of one case: its picture (H, W, 3) uint8, and the traces of its batch. row: its place in the batch."""

    index: int
    image: np.ndarray
    traces: list[RoutingTrace]
    timesteps: list[float]
    row: int


def tagworld_case(sample: Sample, seed: int, *, control: bool = False) -> RoutingCase:
    """A TagWorld case with the noise of this seed. Its mask is kept only where the edit is local."""
    return RoutingCase(
        facts=Facts(
            instruction=sample.instruction,
            seed=seed,
            image=image_digest(sample.sources),
            task=sample.task,
            tags=(*sample.tags.scope, *sample.tags.types, *sample.tags.preservation),
            control=control,
            held_out_paraphrase=sample.held_out_paraphrase,
            held_out_combination=sample.held_out_combination,
        ),
        sources=tuple(Image.fromarray(source) for source in sample.sources),
        target=sample.target,
        mask=None if sample.mask.all() else sample.mask,
        sample=sample,
    )


def tagworld_cases(per_task: int, seed: int, tasks: Sequence[str] | None = None) -> list[RoutingCase]:
    """Held-out TagWorld cases, `per_task` of each task; case i has the noise of seed + i.

    Raises UsageError for an unknown task.
    """
    return [tagworld_case(sample, seed + i) for i, sample in enumerate(draw_cases(per_task, seed, tasks))]


def image_digest(pictures: Sequence[np.ndarray]) -> str:
    """A short digest of the pixels of reference pictures; "" without any."""
    if not pictures:
        return ""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()[:16]


def draw(
    pipeline: TagMoEPipeline,
    cases: Sequence[RoutingCase],
    *,
    steps: int | None = None,
    cfg: float | None = None,
    batch: int = 1,
    return_routing: bool = True,
) -> Iterator[Drawn]:
    """Run the cases in batches of equal shapes. Yields each when it is done, so not in the order of `cases`."""
    pipeline.set_progress_bar_config(disable=True)
    for indices in _batches(cases, batch):
        members = [cases[i] for i in indices]
        timesteps: list[float] = []

        def on_step(_pipeline: Any, _step: int, t: Any, _inputs: Any, seen: list[float] = timesteps) -> None:
            seen.append(float(t) / 1000)

        answer = pipeline(
            [case.facts.instruction for case in members],
            [list(case.sources) for case in members] if members[0].sources else None,
            num_inference_steps=steps,
            true_cfg_scale=cfg,
            seed=[case.facts.seed for case in members],
            return_routing="full" if return_routing else None,
            callback_on_step_end=on_step,
            callback_on_step_end_tensor_inputs=(),
        )
        output = cast(TagMoEPipelineOutput, answer)
        for row, index in enumerate(indices):
            image = np.asarray(output.images[row].convert("RGB"))
            yield Drawn(index, image, cast("list[RoutingTrace]", output.routing or []), timesteps, row)


def record_cases(
    pipeline: TagMoEPipeline,
    cases: Sequence[RoutingCase],
    writer: RecordingWriter,
    *,
    steps: int | None = None,
    cfg: float | None = None,
    batch: int = 1,
    on_case: Callable[[int], None] | None = None,
) -> dict[int, str]:
    """Run the cases and record their routing. Returns the id of each case in the recording.

    on_case: called with the number of finished cases. Raises UsageError for a model without mixture layers.
    """
    ids: dict[int, str] = {}
    for drawn in draw(pipeline, cases, steps=steps, cfg=cfg, batch=batch):
        case = cases[drawn.index]
        verdict = None if case.sample is None else judge(case.sample, drawn.image)
        ids[drawn.index] = writer.add(
            case.facts,
            drawn.traces,
            drawn.timesteps,
            Shown(drawn.image, tuple(np.asarray(s.convert("RGB")) for s in case.sources), case.target, case.mask),
            sample=drawn.row,
            success=None if verdict is None else verdict.success,
            reasons=() if verdict is None else verdict.reasons,
        )
        if on_case is not None:
            on_case(len(ids))
    return ids


def _batches(cases: Sequence[RoutingCase], batch: int) -> Iterator[list[int]]:
    """Indices of cases that fit into one call, because their references have the same sizes."""
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault(tuple(source.size for source in case.sources), []).append(index)
    for members in groups.values():
        for start in range(0, len(members), batch):
            yield members[start : start + batch]
