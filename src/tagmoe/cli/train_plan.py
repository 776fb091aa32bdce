"""`tagmoe train RECIPE --plan`: what a run needs, in a table, before anything is loaded."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from tagmoe.cli.output import print_result
from tagmoe.config import RunConfig
from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.pipeline.memory.room import Room
    from tagmoe.train.plan import TrainingPlan

LARGEST_SIDE = 1 << 14


def print_plan(config: RunConfig, *, memory: str, size: str | None, references: int, ranks: int, as_json: bool) -> None:
    """Print the plan of stage unified for one of so many ranks. Raises TrainingError, after the print, when it does not
    fit; UsageError for a size that is none, and ConfigError for settings that so many ranks cannot do."""
    from tagmoe.pipeline.memory.plans import BUDGETS, PLANS, RESERVE
    from tagmoe.pipeline.memory.room import Room, memory_room
    from tagmoe.train.engine import check_ranks
    from tagmoe.train.plan import check_fits, plan_training
    from tagmoe.train.plan_shapes import shapes_of

    # A card of a named size is another machine, perhaps: its host is not known.
    room = memory_room() if memory == "auto" else Room("cuda", BUDGETS[memory] - RESERVE, math.inf, PLANS)
    check_ranks(config, ranks)
    plan = plan_training(config, room, shapes_of(config, _size(size), references, ranks), ranks)
    print_result(
        plan.as_json() | {"budget_bytes": int(room.budget), "device": room.device}, _text(plan, room), as_json=as_json
    )
    check_fits(plan, room)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None or not all(1 <= int(side) <= LARGEST_SIDE for side in found.groups()):
        raise UsageError(f"--size is {text[:40]!r}; give WIDTHxHEIGHT, such as 1024x1024.")
    return int(found[1]), int(found[2])


def _text(plan: TrainingPlan, room: Room) -> str:
    from tagmoe.pipeline.memory.sizes import GB
    from tagmoe.train.plan import REPLACED

    counts, shapes = plan.counts, plan.shapes
    lines = [
        f"parameters: {counts.parameters:,}; {counts.trained:,} trained, {counts.frozen:,} frozen",
        f"a micro-batch: {shapes.batch} x ({shapes.image_tokens} image + {shapes.text_tokens} text tokens), "
        f"{plan.accumulate} a step, computed in {plan.precision}",
        *([] if plan.ranks == 1 else [f"each of {plan.ranks} processes:"]),
        "",
        f"{'memory':<46}{'place':<8}{'dtype':<8}{'GB':>10}",
    ]
    lines += [f"{part.what:<46}{part.place:<8}{part.dtype:<8}{part.bytes / GB:>10.3f}" for part in counts.parts]
    for what, size in (
        ("activations kept for backward (traced)", plan.traced.saved),
        ("activations of a block computed again (traced)", plan.traced.block),
        ("working memory (estimate)", plan.working),
        (REPLACED, -plan.replaced),
    ):
        lines.append(f"{what:<46}{'device':<8}{plan.precision:<8}{size / GB:>10.3f}")
    lines += [
        f"{'device':<62}{plan.device / GB:>10.3f}",
        f"{'host':<62}{plan.host / GB:>10.3f}",
        f"{'memory of the device':<62}{room.budget / GB:>10.3f}",
        "",
        "FLOPs of a step: " + ", ".join(f"{name} {count / 1e12:.4g} T" for name, count in plan.flops.items()),
        "",
        "device without activations, AdamW, the average on the host:",
        *(f"  {name:<60}{size / GB:>10.3f}" for name, size in plan.alternatives.items()),
        *plan.notes,
    ]
    return "\n".join(lines)
