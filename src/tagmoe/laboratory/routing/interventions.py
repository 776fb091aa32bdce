"""Switch experts off or force them, and measure the change of the picture: a causal complement to Fig. 6.

Every condition draws the same cases with the same noise in the same batches, so that differences are paired. For
comparison, one condition changes only the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from tagmoe.laboratory.routing.recorder import RoutingCase, draw
from tagmoe.model.intervention import Intervention, intervene
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.routing.recording import Condition, Interventions, RecordingWriter
from tagmoe.world import judge

SHOWN_CASES = 6
# Far from the seeds of the cases themselves, so that no case gets the noise of another.
_OTHER_NOISE = 1_000_003


def all_interventions(layers: int, experts: int) -> list[Intervention]:
    """Each expert switched off and forced, first in all layers at once, then in each layer alone."""
    places = [None, *range(layers)]
    return [Intervention(mode, e, layer) for layer in places for mode in ("off", "forced") for e in range(experts)]


def run_interventions(
    pipeline: TagMoEPipeline,
    cases: Mapping[str, RoutingCase],
    writer: RecordingWriter,
    *,
    steps: int | None = None,
    cfg: float | None = None,
    batch: int = 1,
    on_condition: Callable[[int, int], None] | None = None,
) -> Interventions:
    """Run `cases` under every condition. Pictures of a few cases go into the recording.

    cases: by their id in the recording. on_condition: called with the numbers of finished and of all conditions. Raises
    UsageError as `intervene` does.
    """
    config = pipeline.part("transformer").config
    changes = all_interventions(config.num_moe_blocks, config.num_experts)
    members = list(cases.values())
    shown = _shown(cases)

    def run(change: Intervention | None, noise: int = 0) -> list[np.ndarray]:
        drawn = [replace(c, facts=c.facts.model_copy(update={"seed": c.facts.seed + noise})) for c in members]
        with intervene(pipeline.transformer, [change]) if change is not None else nullcontext():
            found = draw(pipeline, drawn, steps=steps, cfg=cfg, batch=batch, return_routing=False)
            images = {one.index: one.image for one in found}
        return [images[i] for i in range(len(members))]

    before = run(None)
    total = len(changes) + 2
    conditions = []
    for number, change in enumerate([None, *changes]):
        if on_condition is not None:
            on_condition(number + 1, total)
        images = run(change, 0 if change is not None else _OTHER_NOISE)
        mode, expert, layer = ("noise", None, None) if change is None else (change.mode, change.expert, change.layer)
        conditions.append(
            Condition(
                mode=mode,
                expert=expert,
                layer=layer,
                change=tuple(difference(a, b) for a, b in zip(images, before, strict=True)),
                success=_verdicts(members, images),
                pictures=_write(writer, f"{mode}-l{layer}-e{expert}", cases, images, shown),
            )
        )
    if on_condition is not None:
        on_condition(total, total)
    return Interventions(
        cases=tuple(cases),
        success=_verdicts(members, before),
        pictures=_write(writer, "unchanged", cases, before, shown),
        conditions=tuple(conditions),
    )


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two pictures of one size, uint8: 0 for equal ones, 1 for black against white."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean() / 255)


def _verdicts(cases: Sequence[RoutingCase], images: Sequence[np.ndarray]) -> tuple[bool | None, ...]:
    return tuple(
        None if case.sample is None else judge(case.sample, image).success
        for case, image in zip(cases, images, strict=True)
    )


def _shown(cases: Mapping[str, RoutingCase]) -> set[str]:
    """Ids of the cases whose pictures are kept. They are of different tasks, spread over all tasks."""
    first: dict[str | None, str] = {}
    for name, case in cases.items():
        first.setdefault(case.facts.task, name)
    names = list(first.values()) if len(first) > 1 else list(cases)
    return {
        names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(SHOWN_CASES, len(names))).round().astype(int))
    }


def _write(
    writer: RecordingWriter, name: str, cases: Mapping[str, RoutingCase], images: Sequence[np.ndarray], shown: set[str]
) -> dict[str, str]:
    return {
        case: writer.write_picture(f"{case}-{name}", image)
        for case, image in zip(cases, images, strict=True)
        if case in shown
    }
