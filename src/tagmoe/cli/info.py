"""`tagmoe info`: what is installed, what the words mean, what the model is."""

from __future__ import annotations

import json
import os
import platform
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

from tagmoe.cli.models import check_model, hush
from tagmoe.cli.options import AsJson, Model
from tagmoe.cli.output import give
from tagmoe.errors import CheckpointError, MissingError
from tagmoe.model.shards import read_file
from tagmoe.packaged import packaged_folder

PACKAGES = ("tagmoe", "torch", "diffusers", "transformers", "safetensors", "numpy", "pillow", "peft", "tensorboard")
PARTS = ("transformer", "vae", "text_encoder")


class Topic(StrEnum):
    """What can be asked about."""

    tags = "tags"
    settings = "settings"
    words = "words"
    model = "model"


def info(
    topic: Annotated[Topic | None, typer.Argument(help="By default: versions, processors, packaged model.")] = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Versions and devices, the vocabulary of tags, all settings, the words of TagWorld, or a model's facts."""
    if topic is Topic.tags:
        _tags(as_json)
    elif topic is Topic.settings:
        _settings(as_json)
    elif topic is Topic.words:
        _words(as_json)
    elif topic is Topic.model:
        _model(check_model(model), as_json)
    else:
        _installation(as_json)


def _tags(as_json: bool) -> None:
    from tagmoe.tags import TAGS

    rows = [{"index": t.index, "name": t.name, "tier": t.tier, "definition": t.definition} for t in TAGS]
    width = max(len(t.name) for t in TAGS)
    lines = []
    for tier in dict.fromkeys(t.tier for t in TAGS):
        lines += [tier, *(f"  {t.name:<{width}}  {t.definition}" for t in TAGS if t.tier == tier)]
    give({"tags": rows}, "\n".join(lines), as_json=as_json)


def _settings(as_json: bool) -> None:
    from tagmoe.config import setting_names

    names = setting_names()
    give({"settings": names}, "\n".join(names), as_json=as_json)


def _words(as_json: bool) -> None:
    from tagmoe.world import words

    known = sorted(words())
    give({"words": known}, " ".join(known), as_json=as_json)


def _installation(as_json: bool) -> None:
    import torch

    hush()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    devices = [f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    try:
        packaged_folder()
        packaged = "installed"
    except MissingError:
        packaged = "not installed"
    lines = [f"{name:<13}{value}" for name, value in versions.items()]
    lines += [*(f"device       {device}" for device in devices), f"packaged     {packaged}"]
    give({"versions": versions, "devices": devices, "packaged_model": packaged}, "\n".join(lines), as_json=as_json)


def _model(folder: Path, as_json: bool) -> None:
    if not folder.is_dir():
        raise MissingError(f"There is no model folder {str(folder)!r}; give a folder with model_index.json.")
    index = _read_json(folder / "model_index.json")
    transformer = _read_json(folder / "transformer" / "config.json")
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
    give(facts, "\n".join(lines), as_json=as_json)


def _count_parameters(part: Path) -> int:
    """Parameters of a component, from the headers of its weight files: a few bytes are read, and no torch is needed."""
    return sum(prod(entry.shape) for file in sorted(part.glob("*.safetensors")) for entry in read_file(file).values())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"The model folder is incomplete: {str(file)!r} is missing; copy or download it again."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged; copy or download it again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(file)!r} is damaged (no JSON object); copy or download it again.")
    return data
