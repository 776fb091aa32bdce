"""`tagmoe info`: versions and devices, tags, settings, words, and facts about a model."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tagmoe.cli.models import check_model, quiet_libraries
from tagmoe.cli.options import AsJson, Model
from tagmoe.cli.output import print_result
from tagmoe.errors import MissingError, TagMoEError, UsageError
from tagmoe.files.json_files import read_object
from tagmoe.pipeline.memory.plans import BUDGETS, CPU_RESERVE, PLANS, RESERVE, MemoryPlan, choose_plan, fits
from tagmoe.pipeline.memory.room import Room, memory_room
from tagmoe.pipeline.memory.sizes import GB, ModelSizes, full_size, read_sizes
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.sentences import counted
from tagmoe.weights.shards import read_file

PACKAGES = (
    "tagmoe",
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "numpy",
    "pillow",
    "peft",
    "tensorboard",
    "bitsandbytes",
)
PARTS = ("transformer", "vae", "text_encoder")


Topic = Literal["tags", "settings", "words", "model"]
"""The topics of `tagmoe info`."""


def info(
    topic: Annotated[Topic | None, typer.Argument(help="By default: versions, processors, packaged model.")] = None,
    model: Model = None,
    memory: Annotated[bool, typer.Option("--memory", help="Memory plans of a model, computed without loading it.")] = (
        False
    ),
    full_size_model: Annotated[
        bool,
        typer.Option("--full-size", help="With --memory: the released full-size model; its files are not needed."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Versions and devices, the vocabulary of tags, all settings, the words of TagWorld, facts or memory of a model."""
    if memory:
        if topic is not None or (full_size_model and model is not None):
            raise UsageError("--memory stands alone or with one of --model and --full-size; leave the other words out.")
        _memory(model, full_size_model, as_json)
    elif full_size_model:
        raise UsageError("--full-size chooses the model of --memory; add --memory.")
    elif topic == "model":
        _model(check_model(model), as_json)
    else:
        {"tags": _tags, "settings": _settings, "words": _words, None: _installation}[topic](as_json)


def _tags(as_json: bool) -> None:
    from tagmoe.tags import TAGS

    rows = [{"index": t.index, "name": t.name, "tier": t.tier, "definition": t.definition} for t in TAGS]
    width = max(len(t.name) for t in TAGS)
    lines = [
        line
        for tier in dict.fromkeys(t.tier for t in TAGS)
        for line in (tier, *(f"  {t.name:<{width}}  {t.definition}" for t in TAGS if t.tier == tier))
    ]
    print_result({"tags": rows}, "\n".join(lines), as_json=as_json)


def _settings(as_json: bool) -> None:
    from tagmoe.config import settings

    known = settings()
    widths = [max(len(getattr(setting, column)) for setting in known) for column in ("name", "takes")]
    lines = [f"{s.name:<{widths[0]}}  {s.takes:<{widths[1]}}  {s.default}" for s in known]
    facts = {"settings": [setting.name for setting in known], "details": [asdict(setting) for setting in known]}
    print_result(facts, "\n".join(lines), as_json=as_json)


def _words(as_json: bool) -> None:
    from tagmoe.world import words

    known = sorted(words())
    print_result({"words": known}, " ".join(known), as_json=as_json)


def _installation(as_json: bool) -> None:
    import torch

    quiet_libraries()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    devices = [f"cpu, {counted(os.cpu_count() or 1, 'core')}, {counted(torch.get_num_threads(), 'thread')}"]
    devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    try:
        packaged_folder()
        packaged = "installed"
    except MissingError:
        packaged = "not installed"
    lines = [f"{name:<13}{value}" for name, value in versions.items()]
    lines += [*(f"device       {device}" for device in devices), f"packaged     {packaged}"]
    print_result(
        {"versions": versions, "devices": devices, "packaged_model": packaged}, "\n".join(lines), as_json=as_json
    )


def _model(folder: Path, as_json: bool) -> None:
    if not folder.is_dir():
        raise MissingError(f"There is no model folder {str(folder)!r}; give a folder with model_index.json.")
    index = read_object(folder / "model_index.json")
    transformer = read_object(folder / "transformer" / "config.json")
    sizes = {part: _count_parameters(folder / part) for part in PARTS}
    card, words = folder / "README.md", index.get("known_words")
    facts: dict[str, Any] = {
        "folder": str(folder),
        "parameters": sizes,
        "megabytes": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 2),
        **{name: transformer.get(name) for name in ("num_layers", "num_moe_blocks", "num_experts", "top_k", "gate")},
        **{name: index.get(name) for name in ("default_size", "default_steps", "default_cfg")},
        "known_words": len(words) if isinstance(words, list) else None,
        "card": str(card) if card.is_file() else None,
    }
    shown = {**facts, "parameters": ", ".join(f"{part} {count:,}" for part, count in sizes.items())}
    lines = [f"{name:<15}{value}" for name, value in shown.items() if value is not None]
    if card.is_file():
        lines += ["", card.read_text(encoding="utf-8", errors="replace").strip()]
    print_result(facts, "\n".join(lines), as_json=as_json)


def _count_parameters(part: Path) -> int:
    """Parameters of a component, from the headers of its weight files. No weights are read, and torch is not needed."""
    return sum(prod(entry.shape) for file in sorted(part.glob("*.safetensors")) for entry in read_file(file).values())


def _memory(model: Path | None, of_full_size: bool, as_json: bool) -> None:
    """The memory plans of a model: what each needs, how that is computed, which fit, and which one --memory takes."""
    here = memory_room()
    if of_full_size:
        quiet_libraries()
        sizes = full_size()
        # The full-size model needs a GPU. Without one here, the question is about a card in another machine.
        card = here if here.device == "cuda" else Room("cuda", 0.0, math.inf, PLANS)
    else:
        sizes = read_sizes(
            check_model(model), value_bytes=here.value_bytes, quantised_value_bytes=here.quantised_value_bytes
        )
        card = here
    reserve = RESERVE if card.device == "cuda" else CPU_RESERVE
    rooms = {name: replace(card, budget=size - reserve) for name, size in BUDGETS.items()}
    if card is here:
        rooms = {"auto": here} | rooms
    facts = {
        "model": sizes.name,
        "device": card.device,
        "budget_bytes": {name: int(room.budget) for name, room in rooms.items()},
        "host_bytes": None if math.isinf(card.host) else int(card.host),
        "reserve_bytes": int(reserve),
        "chosen": {name: _choice(sizes, room) for name, room in rooms.items()},
        "plans": [_plan_facts(plan, sizes, rooms) for plan in card.plans],
    }
    print_result(facts, "\n".join(_memory_lines(facts)), as_json=as_json)


def _choice(sizes: ModelSizes, room: Room) -> str | None:
    try:
        return choose_plan(sizes, room.budget, room.host, room.plans).name
    except TagMoEError:
        return None


def _plan_facts(plan: MemoryPlan, sizes: ModelSizes, rooms: Mapping[str, Room]) -> dict[str, Any]:
    estimate = plan.estimate(sizes)
    return {
        **asdict(plan),
        "tolerance": plan.tolerance,
        "device_bytes": estimate.device,
        "host_bytes": estimate.host,
        "moments": dict(estimate.moments),
        "fits": [
            name for name, room in rooms.items() if plan in room.plans and fits(plan, sizes, room.budget, room.host)
        ],
        "arithmetic": [asdict(line) for line in estimate.lines],
    }


def _memory_lines(facts: dict[str, Any]) -> list[str]:
    """A table of the plans, then the arithmetic of each plan that is chosen for some size."""
    chosen = facts["chosen"]
    budgets = ", ".join(f"{name} {size / GB:.1f}" for name, size in facts["budget_bytes"].items())
    host = "" if facts["host_bytes"] is None else f"; of the host {facts['host_bytes'] / GB:.1f}"
    lines = [
        f"{facts['model']}, on {facts['device']}. GB (1e9 bytes) to plan with: {budgets}{host}.",
        "",
        f"{'plan':<25}{'transformer':<13}{'text':<7}{'offload':<11}{'device GB':>9}{'host GB':>9}  {'picture':<10}fits",
    ]
    for row in facts["plans"]:
        picture = f"within {row['tolerance']:g}" if row["tolerance"] else "the same"
        places = [f"{name}*" if chosen[name] == row["name"] else name for name in row["fits"]]
        lines.append(
            f"{row['name']:<25}{row['transformer']:<13}{row['text_encoder']:<7}{row['offload']:<11}"
            f"{row['device_bytes'] / GB:>9.2f}{row['host_bytes'] / GB:>9.2f}  {picture:<10}{' '.join(places)}".rstrip()
        )
    lines += ["", "*: what --memory takes. picture: mean difference of a pixel, of 255, from plan resident."]
    for row in facts["plans"]:
        if row["name"] in chosen.values():
            lines += ["", f"{row['name']}: {row['device_bytes'] / GB:.2f} GB at most"]
            lines += [f"  {line['what']:<27}{line['bytes'] / GB:>8.3f}  {line['how']}" for line in row["arithmetic"]]
            lines.append("  at once: " + ", ".join(f"{name} {size / GB:.2f}" for name, size in row["moments"].items()))
    return lines
