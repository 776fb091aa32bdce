"""A routing report's numbers for programs: CSV tables and one JSON object. Layers and experts count from 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import product
from typing import Any

import numpy as np

from tagmoe.intervals import Interval
from tagmoe.report.csv_text import csv_text
from tagmoe.routing.findings import Findings, MaskFinding, Missing
from tagmoe.routing.reading import Recording
from tagmoe.routing.specialization import MutualInformation
from tagmoe.routing.streams import STREAMS

Rows = Iterator[Sequence[Any]]


def csv_tables(recording: Recording, found: Findings) -> dict[str, str]:
    """{file name: text} of every table that has rows."""
    tables = {
        "cases.csv": _cases(recording, found),
        "utilisation.csv": _utilisation(found),
        "streams.csv": _streams(found),
        "information.csv": _information(found),
        "tags.csv": _tags(found),
        "mask.csv": _mask(found),
        "contrasts.csv": _contrasts(found),
        "interventions.csv": _interventions(found),
    }
    lists = {name: list(rows) for name, rows in tables.items()}
    return {name: csv_text(rows, digits=6) for name, rows in lists.items() if len(rows) > 1}


def plain(value: Any) -> Any:
    """Findings as JSON values: arrays as lists, `Missing` as {"missing": reason}, NaN as null, 6 digits."""
    if isinstance(value, Missing):
        return {"missing": value.reason}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _cases(recording: Recording, found: Findings) -> Rows:
    head = ["case", "task", "tags", "instruction", "seed", "control", "success", "held_out_paraphrase"]
    yield [*head, "held_out_combination", *[f"g{n}" for n in range(1, found.experts + 1)]]
    for case in recording.cases:
        facts, signature = case.facts, found.case_signatures.get(case.id)
        about = [case.id, facts.task, "; ".join(facts.tags), facts.instruction, facts.seed, facts.control, case.success]
        held = [facts.held_out_paraphrase, facts.held_out_combination]
        yield [*about, *held, *([] if signature is None else signature.mean(axis=0))]


def _utilisation(found: Findings) -> Rows:
    yield ["task", "cases", "tokens", "layer", "expert", "share", "deviation"]
    for task, shares in {"(all)": found.everything, **found.utilisation}.items():
        for tokens, values in (("target", shares.target_LN), ("references", shares.references_LN)):
            for (layer, expert), share in np.ndenumerate(values) if values is not None else ():
                yield [task, shares.cases, tokens, layer + 1, expert + 1, share, share - 1 / found.experts]


def _streams(found: Findings) -> Rows:
    yield ["tokens", "layer", "cases", "weight_in_g", "variance_between_tasks", "low", "high", "changes_pixels"]
    one = found.streams
    if isinstance(one, Missing):
        return
    for stream, tokens in enumerate(STREAMS):
        for layer, weight in enumerate(one.weight_SL[stream]):
            values = [bound[stream, layer] for bound in (one.variance_SL.value, *one.variance_SL.bounds)]
            dead = tokens == "references" and layer + 1 == found.layers
            yield [tokens, layer + 1, one.cases, weight, *values, not dead]
        values = [bound[stream] for bound in (one.stream_S.value, *one.stream_S.bounds)]
        yield [tokens, "(all)", one.cases, one.weight_SL[stream].sum(), *values, ""]


def _information(found: Findings) -> Rows:
    yield ["tokens", "task", "layer", "nats", "shuffled_mean", "shuffled_95", "p", "most"]
    for tokens, one in (("target", found.information), ("references", found.information_references)):
        if isinstance(one, MutualInformation):
            table = zip(one.value_L, one.permuted_L, one.permuted_high_L, one.p_L, strict=True)
            yield from ([tokens, "(all)", layer, *values, one.most] for layer, values in enumerate(table, 1))
            for (task, layer), value in np.ndenumerate(one.task_TL):
                chance = [one.task_permuted_TL[task, layer], one.task_permuted_high_TL[task, layer]]
                yield [tokens, one.tasks[task], layer + 1, value, *chance]


def _tags(found: Findings) -> Rows:
    yield ["tag", "cases", "layer", "expert", "difference", "low", "high"]
    layers: list[Any] = [*range(1, found.layers + 1), "mean"]
    places = list(product(layers, range(1, found.experts + 1)))
    for name, one in found.tags.items() if not isinstance(found.tags, Missing) else ():
        for place, *values in zip(places, one.value, one.low, one.high, strict=True):
            yield [name, one.n, *place, *values]


def _mask(found: Findings) -> Rows:
    yield ["tokens", "mask", "timestep", "cases", "layer", "expert", "concentration", "low", "high"]
    for tokens, one in (("target", found.mask), ("reference", found.mask_reference)):
        if not isinstance(one, MaskFinding):
            continue
        for mask, interval in (("own", one.inside), ("of another case", one.elsewhere)):
            for n, (layer, expert), values in _entries(interval):
                yield [tokens, mask, "mean", n, layer + 1, expert + 1, *values]
        for n, (step, layer, expert), values in _entries(one.by_step):
            yield [tokens, "own", one.timesteps_K[step], n, layer + 1, expert + 1, *values]


def _entries(interval: Interval[np.ndarray] | None) -> Iterator[tuple[int, tuple[int, ...], list[Any]]]:
    """n, place, and value with bounds, of each entry of the arrays; nothing without an interval."""
    if interval is not None:
        for place, value in np.ndenumerate(interval.value):
            yield interval.n, place, [value, interval.low[place], interval.high[place]]


def _contrasts(found: Findings) -> Rows:
    yield ["differ_in", "about", "pairs", "distance", "low", "high"]
    rows = found.controlled.contrasts
    for one in rows if not isinstance(rows, Missing) else ():
        yield [one.kind, one.about, one.pairs, one.distance.value, *one.distance.bounds]


def _interventions(found: Findings) -> Rows:
    head = ["mode", "layer", "expert", "task", "cases", "change", "change_low", "change_high"]
    yield [*head, "success_difference", "success_low", "success_high"]
    if isinstance(found.effects, Missing):
        return
    for one in (*([found.effects.noise] if found.effects.noise else []), *found.effects.switched):
        layer = "all" if one.layer is None else one.layer + 1
        place = [one.mode, layer, "" if one.expert is None else one.expert + 1]
        success = [] if one.success is None else [one.success.value, *one.success.bounds]
        yield [*place, "(all)", one.change.n, one.change.value, *one.change.bounds, *success]
        for task, effect in one.by_task.items():
            yield [*place, task, effect.n, effect.change, "", "", effect.success]
