"""The numbers of a routing report for machines: CSV tables and one JSON object. Layers and experts count from 1."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from tagmoe.routing.findings import Findings, MaskFinding, Missing
from tagmoe.routing.reading import Recording
from tagmoe.routing.specialization import MutualInformation

Rows = list[list[Any]]


def csv_tables(recording: Recording, found: Findings) -> dict[str, str]:
    """File name -> text of every table that has rows."""
    tables = {
        "cases.csv": _cases(recording, found),
        "utilisation.csv": _utilisation(found),
        "information.csv": _information(found),
        "tags.csv": _tags(found),
        "mask.csv": _mask(found),
        "contrasts.csv": _contrasts(found),
        "interventions.csv": _interventions(found),
    }
    return {name: _text(rows) for name, rows in tables.items() if len(rows) > 1}


def plain(value: Any) -> Any:
    """Findings as JSON values: arrays as lists, what is missing as {"missing": reason}, NaN as null, 6 digits."""
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
    experts = range(1, found.experts + 1)
    head = ["case", "task", "tags", "instruction", "seed", "control", "success", "held_out_paraphrase"]
    rows: Rows = [[*head, "held_out_combination", *[f"g{n}" for n in experts]]]
    for case in recording.cases:
        facts, signature = case.facts, found.case_signatures.get(case.id)
        about = [case.id, facts.task, "; ".join(facts.tags), facts.instruction, facts.seed, facts.control, case.success]
        held = [facts.held_out_paraphrase, facts.held_out_combination]
        rows.append([*about, *held, *([] if signature is None else _numbers(signature.mean(axis=0)))])
    return rows


def _utilisation(found: Findings) -> Rows:
    rows: Rows = [["task", "cases", "tokens", "layer", "expert", "share", "deviation"]]
    for task, shares in {"(all)": found.everything, **found.utilisation}.items():
        for tokens, values in (("target", shares.target_LN), ("references", shares.references_LN)):
            for (layer, expert), share in np.ndenumerate(values) if values is not None else ():
                numbers = _numbers([share, share - 1 / found.experts])
                rows.append([task, shares.cases, tokens, layer + 1, expert + 1, *numbers])
    return rows


def _information(found: Findings) -> Rows:
    rows: Rows = [["tokens", "task", "layer", "nats", "shuffled_mean", "shuffled_95", "p", "most"]]
    for tokens, one in (("target", found.information), ("references", found.information_references)):
        if isinstance(one, MutualInformation):
            table = zip(one.value_L, one.permuted_L, one.permuted_high_L, one.p_L, strict=True)
            rows += [[tokens, "(all)", layer, *_numbers([*values, one.most])] for layer, values in enumerate(table, 1)]
            for (task, layer), value in np.ndenumerate(one.task_TL):
                chance = [one.task_permuted_TL[task, layer], one.task_permuted_high_TL[task, layer]]
                rows.append([tokens, one.tasks[task], layer + 1, *_numbers([value, *chance])])
    return rows


def _tags(found: Findings) -> Rows:
    rows: Rows = [["tag", "cases", "layer", "expert", "difference", "low", "high"]]
    if isinstance(found.tags, Missing):
        return rows
    places = [(layer, expert) for layer in range(1, found.layers + 1) for expert in range(1, found.experts + 1)]
    places += [("mean", expert) for expert in range(1, found.experts + 1)]  # type: ignore[misc]
    for name, one in found.tags.items():
        table = zip(places, one.value, one.low, one.high, strict=True)
        rows += [[name, one.n, layer, expert, *_numbers(values)] for (layer, expert), *values in table]
    return rows


def _mask(found: Findings) -> Rows:
    rows: Rows = [["tokens", "mask", "timestep", "cases", "layer", "expert", "concentration", "low", "high"]]
    for tokens, one in (("target", found.mask), ("reference", found.mask_reference)):
        if not isinstance(one, MaskFinding):
            continue
        for mask, interval in (("own", one.inside), ("of another case", one.elsewhere)):
            if interval is not None:
                for (layer, expert), value in np.ndenumerate(interval.value):
                    numbers = _numbers([value, interval.low[layer, expert], interval.high[layer, expert]])
                    rows.append([tokens, mask, "mean", interval.n, layer + 1, expert + 1, *numbers])
        if one.by_step is not None:
            for (step, layer, expert), value in np.ndenumerate(one.by_step.value):
                place = (step, layer, expert)
                numbers = _numbers([value, one.by_step.low[place], one.by_step.high[place]])
                time = _numbers([one.timesteps_K[step]])[0]
                rows.append([tokens, "own", time, one.by_step.n, layer + 1, expert + 1, *numbers])
    return rows


def _contrasts(found: Findings) -> Rows:
    rows: Rows = [["differ_in", "about", "pairs", "distance", "low", "high"]]
    if isinstance(found.controlled.contrasts, Missing):
        return rows
    for one in found.controlled.contrasts:
        numbers = _numbers([one.distance.value, one.distance.low, one.distance.high])
        rows.append([one.kind, one.about, one.pairs, *numbers])
    return rows


def _interventions(found: Findings) -> Rows:
    head = ["mode", "layer", "expert", "task", "cases", "change", "change_low", "change_high"]
    rows: Rows = [[*head, "success_difference", "success_low", "success_high"]]
    if isinstance(found.effects, Missing):
        return rows
    for one in (*([found.effects.noise] if found.effects.noise else []), *found.effects.switched):
        layer = "all" if one.layer is None else one.layer + 1
        place = [one.mode, layer, "" if one.expert is None else one.expert + 1]
        intervals = [one.change, *([one.success] if one.success is not None else [])]
        numbers = [number for i in intervals for number in _numbers([i.value, i.low, i.high])]
        rows.append([*place, "(all)", one.change.n, *numbers])
        for task, effect in one.by_task.items():
            success = [] if effect.success is None else _numbers([effect.success])
            rows.append([*place, task, effect.n, *_numbers([effect.change]), "", "", *success])
    return rows


def _numbers(values: Sequence[Any] | np.ndarray) -> list[str]:
    return ["" if math.isnan(value) else f"{float(value):.6g}" for value in values]


def _text(rows: Rows) -> str:
    width = len(rows[0])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([*row, *[""] * (width - len(row))] for row in rows)
    return buffer.getvalue()
