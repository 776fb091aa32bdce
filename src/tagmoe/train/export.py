"""A finished run for others: a pipeline folder, a single file of weights, or a LoRA in the names that tools read.

Weights are copied as bytes, tensor by tensor. torch's `consolidate_safetensors_files` (of `HuggingFaceStorageWriter`)
does not fit here: it joins files whose headers say which part of a tensor they hold, and a run's shards hold whole
tensors.

Names of a LoRA, read in the public code of each tool (2026-11-30):
    diffusers, ComfyUI  transformer.<layer>.lora_A.weight, .lora_B.weight
    kohya (musubi)      lora_unet_<layer, with _ for .>.lora_down.weight, .lora_up.weight, .alpha
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors.torch import save
from torch import Tensor

from tagmoe.config import DataConfig
from tagmoe.errors import MissingError, TagMoEError, UsageError
from tagmoe.files.resumable import ByteRange, PlannedFile, Written, write_folder
from tagmoe.files.yaml_text import write_yaml
from tagmoe.model.lora_file import read_lora
from tagmoe.pipeline.folder import ALIGNMENT
from tagmoe.pipeline.model_folder import INDEX, model_folder
from tagmoe.report.markdown import markdown_text
from tagmoe.report.numbers import named
from tagmoe.sentences import counted
from tagmoe.train.run_folder import recorded_settings
from tagmoe.train.run_page import METRICS, ROUTING, VALIDATION, about_of, lines
from tagmoe.weights.shards import Planned, read_entries, shard_file

FORMATS = ("diffusers", "safetensors", "lora")
CARD = "README.md"
KOHYA = "kohya.safetensors"
SINGLE = "model.safetensors"
FLAT = "lora_unet_"

OPENING = {
    "diffusers": "Open the folder with `TagMoEPipeline` of the package tagmoe, or edit with it:\n"
    '`tagmoe edit photo.png -p "what to change" -m path/of/this/folder`.',
    "safetensors": "`model.safetensors` holds the transformer alone, in diffusers' names; `config.json` its config.\n"
    "The autoencoder and the text encoder are those that it was trained with.",
    "lora": f"`{LORA_WEIGHT_NAME_SAFE}` has the names that diffusers and ComfyUI read, `{KOHYA}` those of kohya's\n"
    "musubi-tuner. Layers of experts fit models with these experts only. With tagmoe:\n"
    '`tagmoe edit photo.png -p "what to change" -m MODEL --lora path/of/this/folder`.',
}


def export(
    run: Path,
    form: str,
    target: Path,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> Written:
    """Write a finished run into the folder `target` in one of `FORMATS`, with a model card.

    Raises UsageError for a folder that holds no run, and for a format that the run does not have. Raises MissingError
    for a run that is not finished, and the errors of `write_folder`.
    """
    settings = recorded_settings(run)
    is_lora = settings.get("parameters") == "lora"
    if is_lora != (form == "lora"):
        has = "a LoRA; give --format lora" if is_lora else "no LoRA; give --format diffusers or --format safetensors"
        raise UsageError(f"The run in {str(run)!r} has trained {has}.")
    files, sources = (_lora if is_lora else _single if form == "safetensors" else _folder)(run)
    card = _card(run, form, settings)
    files = [*(file for file in files if file.name != CARD), PlannedFile(CARD, (card.encode(),))]
    fingerprint = {
        "format": form,
        "tagmoe": version("tagmoe"),
        "files": [_described(file) for file in sources],
        "card": card,
    }
    return write_folder(target, files, fingerprint=fingerprint, replace=replace, progress=progress, log=log)


def _described(file: Path) -> list[Any]:
    """What tells a file from another of its name, without reading it."""
    found = file.stat()
    return [file.as_posix(), found.st_size, found.st_mtime_ns]


def _folder(run: Path) -> tuple[list[PlannedFile], list[Path]]:
    folder = _model(run)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [_copy(path, path.relative_to(folder).as_posix()) for path in found], found


def _single(run: Path) -> tuple[list[PlannedFile], list[Path]]:
    folder = _model(run) / "transformer"
    entries = read_entries(folder)
    weights = shard_file(SINGLE, [Planned.copy(entry) for entry in entries.values()])
    alignment = _model(run) / ALIGNMENT
    beside = [
        _copy(folder / "config.json", "config.json"),
        *([_copy(alignment, ALIGNMENT)] if alignment.is_file() else []),
    ]
    return [weights, *beside], sorted({entry.file for entry in entries.values()})


def _model(run: Path) -> Path:
    folder = model_folder(run)
    if not (folder / INDEX).is_file():
        raise MissingError(f"The run in {str(run)!r} has no model yet; finish it with tagmoe train --resume.")
    return folder


def _copy(path: Path, name: str) -> PlannedFile:
    return PlannedFile(name, (ByteRange(path, 0, path.stat().st_size),))


def _lora(run: Path) -> tuple[list[PlannedFile], list[Path]]:
    file = run / "lora" / LORA_WEIGHT_NAME_SAFE
    if not file.is_file():
        raise MissingError(f"The run in {str(run)!r} has no LoRA yet; finish it with tagmoe train --resume.")
    read = read_lora(file, ())
    dotted: dict[str, Tensor] = {}
    flat: dict[str, Tensor] = {}
    for name, layer in read.layers.items():
        rank = len(layer.down)
        # ComfyUI reads no header, so alpha is the rank, and B holds the strength.
        up = (layer.up.float() * layer.strength).to(layer.up.dtype) if layer.strength != 1 else layer.up
        dotted |= {f"transformer.{name}.lora_A.weight": layer.down, f"transformer.{name}.lora_B.weight": up}
        key = FLAT + name.replace(".", "_")
        flat |= {
            f"{key}.lora_down.weight": layer.down,
            f"{key}.lora_up.weight": layer.up,
            f"{key}.alpha": torch.tensor(layer.strength * rank),
        }
    return [PlannedFile(LORA_WEIGHT_NAME_SAFE, (_bytes(dotted),)), PlannedFile(KOHYA, (_bytes(flat),))], [file]


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    whole: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"})
    return whole


def _card(run: Path, form: str, settings: Mapping[str, Any]) -> str:
    """The card: what was trained on what, with which seed, tags and versions, and the licences of the data."""
    about, unified = about_of(run), settings.get("unified", {})
    front = {"library_name": "tagmoe", "pipeline_tag": "image-to-image"}
    facts = [
        ("starts from", settings.get("start") or settings.get("mixture") or settings.get("dense") or "new weights"),
        ("trains", settings.get("parameters", "all")),
        ("seed", settings.get("seed")),
        (
            "steps",
            f"{unified.get('steps'):,} of {unified.get('accumulate')} x {unified.get('batch')} samples"
            if unified.get("steps")
            else None,
        ),
        ("precision", about.get("precision")),
        ("versions", named(about.get("versions", {}))),
        ("exported by", f"tagmoe {version('tagmoe')}"),
    ]
    parts = [
        f"---\n{write_yaml(front)}---\n",
        f"# {markdown_text(run.resolve().name)}\n",
        f"{OPENING[form]}\n",
        "## Training\n",
        "\n".join(f"- {name}: {markdown_text(str(value))}" for name, value in facts if value not in (None, "")) + "\n",
        "## Data\n",
        "\n".join(_data(settings)) + "\n",
    ]
    if tags := _tags(run):
        parts += ["## Tags\n", f"Seen by the loss alone; using the model needs none: {', '.join(tags)}.\n"]
    if scores := _scores(run):
        parts += ["## Validation in the run\n", f"{scores}\n"]
    return "\n".join(parts)


def _data(settings: Mapping[str, Any]) -> list[str]:
    data = settings.get("data")
    if not data:
        own = "pictures and instructions that tagmoe draws itself from the seed, under its own licence (Apache-2.0)"
        return [f"- TagWorld: {own}."]
    name = f"store {markdown_text(Path(str(data['store'])).name)}, version {data.get('version')}"
    try:
        rows = _licences(DataConfig.model_validate(data))
    except TagMoEError:
        return [f"- {name}. Its data sets and licences are not known here: the store was not there at the export."]
    return [f"- {name}:", *(f"  - {line}" for line in rows)]


def _licences(data: DataConfig) -> list[str]:
    """A line for each data set and licence among the rows that may have been drawn."""
    from tagmoe.extras import require

    require("data", "lance", "pyarrow", purpose="A store of data")
    from tagmoe.data.store.store import Store

    store = Store.open(data.store, version=data.version)
    found: Counter[tuple[str, str]] = Counter()
    for batch in store.scan(["dataset", "licence"]):
        found.update(zip(batch["dataset"].to_pylist(), batch["licence"].to_pylist(), strict=True))
    return [
        f"{markdown_text(dataset)}: {counted(rows, 'row')}, licence {markdown_text(licence)}"
        for (dataset, licence), rows in sorted(found.items())
        if data.weights is None or data.weights.get(dataset, 0) > 0
    ]


def _tags(run: Path) -> Sequence[str]:
    seen: dict[str, None] = {}
    for record in lines(run / ROUTING):
        seen |= dict.fromkeys(record.get("by_tag", ()))
    return list(seen)


def _scores(run: Path) -> str:
    last: Mapping[str, Any] = {}
    for record in lines(run / METRICS):
        if any(name.startswith(f"{VALIDATION}/") for name in record):
            last = record
    scores = {
        name.removeprefix(f"{VALIDATION}/"): value
        for name, value in last.items()
        if name.startswith(f"{VALIDATION}/") and name.count("/") == 1
    }
    said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    if not said:
        return ""
    return f"At step {last['step']:,} of stage {last['stage']}: {said}. Of few cases, without intervals: no benchmark."
