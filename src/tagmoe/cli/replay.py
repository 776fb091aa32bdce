"""`--from`: draw again what a picture says about how it was made. Options that are given too override it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagmoe import __version__
from tagmoe.cli.batch import STREAM, Asked
from tagmoe.cli.metadata import digest_of, is_file_name, read_facts, recorded_place
from tagmoe.cli.models import PACKAGED, model_name
from tagmoe.cli.output import log
from tagmoe.cli.rewriting import NONE
from tagmoe.errors import UsageError
from tagmoe.report.printable import one_line
from tagmoe.sentences import reason_of

NEEDED = ("prompt", "seed", "steps", "cfg", "model")


def replayed(path: Path, asked: Asked, *, edits: bool) -> Asked:
    """What is asked, completed by the facts in a picture. edits: by `edit`, which needs sources.

    The recorded prompt is the one after rewriting, and is not rewritten again. Raises UsageError for a picture without
    facts, for a source or mask that is missing or has changed, and for a model or LoRA that must be given.
    """
    facts = read_facts(path)
    if not all(name in facts for name in NEEDED):
        raise UsageError(f"{str(path)!r} does not say how it was made; give a picture that tagmoe wrote with metadata.")
    try:
        return _completed(path, asked, facts, edits=edits)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"What {str(path)!r} says about how it was made cannot be read ({reason_of(error)})."
        ) from None


def _completed(path: Path, asked: Asked, facts: Mapping[str, str], *, edits: bool) -> Asked:
    options, name = asked.options, repr(str(path))
    # Half of a surrogate pair, which JSON can hold, is no text that a model or a picture takes.
    "".join(facts.values()).encode()
    if facts.get("version", __version__) != __version__:
        log(
            f"{name} was made by tagmoe {one_line(facts['version'])}; this is {__version__}, and the result may differ."
        )
    if options.model is None and facts["model"] != PACKAGED:
        raise UsageError(f"{name} was made by the model {facts['model']!r}; give its folder with --model.")
    if options.model is not None and model_name(options.model) != facts["model"]:
        log(f"{name} was made by the model {facts['model']!r}, not {model_name(options.model)!r}.")
    if "lora" in facts and not options.lora:
        raise UsageError(f"{name} was made with the LoRA {one_line(facts['lora'])}; give its file with --lora.")
    scales = [float(scale) for scale in facts["lora_scale"].split(", ")] if "lora_scale" in facts else None
    own = options.preset is None
    filled: dict[str, Any] = {
        "steps": int(facts["steps"]) if own and options.steps is None else options.steps,
        "cfg": float(facts["cfg"]) if own and options.cfg is None else options.cfg,
        "preset": facts.get("preset") if own else options.preset,
        "negative_prompt": facts.get("negative_prompt") if options.negative_prompt is None else options.negative_prompt,
        "lora_scale": options.lora_scale
        or (scales if options.lora and len(scales or ()) == len(options.lora) else None),
    }
    if options.seed is None and options.num_images is None:
        filled["seed"] = str(int(facts["seed"]))
    if asked.prompt is None and options.rewrite == type(options).rewrite:
        filled["rewrite"] = NONE
    pictures, mask = asked.pictures, asked.mask
    if not pictures:
        pictures = _sources(name, facts, path.parent, edits=edits)
    if mask is None and "mask" in facts:
        mask = _found(name, "mask", json.loads(facts["mask"]), path.parent)
    size = asked.size
    if size == "match" and own and not asked.pictures and mask is None:
        size = facts.get("size", "match")
    prompt = facts["prompt"] if asked.prompt is None else asked.prompt
    return replace(asked, pictures=pictures, prompt=prompt, size=size, mask=mask, options=replace(options, **filled))


def _sources(name: str, facts: Mapping[str, str], folder: Path, *, edits: bool) -> tuple[Path, ...]:
    if "sources" not in facts:
        if not edits:
            return ()
        raise UsageError(f"{name} does not say of which pictures it was made; give them too.")
    found = json.loads(facts["sources"])
    if edits and not found:
        raise UsageError(f"{name} was drawn from text alone; use tagmoe generate --from, or give a picture to edit.")
    if found and not edits:
        raise UsageError(f"{name} was edited from {len(found)} pictures; use tagmoe edit --from.")
    return tuple(_found(name, "source", entry, folder) for entry in found)


def _found(name: str, kind: str, entry: Mapping[str, str], folder: Path) -> Path:
    """The file of a recorded picture. Raises UsageError if it is not there as it was."""
    from tagmoe.pipeline.packaged import picture_path

    if entry["path"] == str(STREAM):
        raise UsageError(f"The {kind} of {name} was read from stdin; give it too.")
    path = recorded_place(entry["path"], folder)
    place = picture_path(path)
    if not place.is_file():
        raise UsageError(f"The {kind} {str(path)!r} of {name} is missing; put it back, or give another one too.")
    if digest_of(place.read_bytes()) != entry["sha256"]:
        raise UsageError(f"The {kind} {str(path)!r} of {name} has changed; put the old one back, or give one too.")
    return Path(path.as_posix()) if is_file_name(entry["path"]) else Path(entry["path"])
