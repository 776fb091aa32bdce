"""Who made a sample: the model, its licence, and whether its terms allow training on what it makes.

A sample may be used as all who had a part in it allow, so its licence is theirs joined by AND, as SPDX writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from pydantic import Field

from tagmoe.config.part import Part
from tagmoe.data.sources.source import NO_TRAINING, Licence
from tagmoe.errors import UsageError

LINEAGE = pa.field("made_by", pa.string())
"""The column of a store with the makers of each sample: a JSON list of `Maker`, in the order of the steps."""
JOINT = " AND "
FREE = "CC0-1.0"


class Maker(Part):
    """A model that had a part in a sample. step: what it did, as "2 edit". model: its name. weights: digest, where it
    is known. settings: all else that its work depends on. asked: the words that it got, where they are not the
    sample's."""

    step: str
    model: str
    weights: str | None = None
    licence: str
    may_train: bool
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    asked: str | None = None


def may_train(licence: str, stated: bool | None) -> bool:
    """Whether one may train on what a maker makes: as is stated, else as its licence says."""
    return Licence.named(licence).training if stated is None else stated


def licence_of(root: str, makers: Iterable[Maker]) -> str:
    """The licence of a sample of a root by these makers; "none" if one of them has none."""
    names = [root]
    for maker in makers:
        # CC0 asks for nothing, so it adds nothing to the terms of a root.
        names += [] if maker.licence == FREE else [maker.licence]
        names += [] if maker.may_train else [NO_TRAINING]
    parts = list(dict.fromkeys(part for name in names for part in name.split(JOINT)))
    return "none" if "none" in parts else JOINT.join(parts)


def family_of(model: str) -> str:
    """The family of a model by its name: the letters at the start of its last part. "Qwen/Qwen3-VL-8B" is "qwen"."""
    found = re.match(r"[a-z]+", model.rstrip("/").split("/")[-1].lower())
    return found[0] if found else model.lower()


def check_makers(makers: Iterable[Maker], *, refuse: bool) -> list[str]:
    """What is to be said of makers that forbid training. Raises UsageError for one, if they are to be refused."""
    found = []
    for maker in makers:
        if maker.may_train:
            continue
        if refuse:
            raise UsageError(
                f"The terms of {maker.model!r} (step {maker.step}) forbid training on what it makes; choose another "
                "maker, or mark such samples with untrainable: mark."
            )
        found.append(f"{maker.model} (step {maker.step}) forbids training on what it makes; its samples are marked")
    return found


def lineage(makers: Iterable[Maker]) -> str:
    """The value of LINEAGE."""
    return json.dumps([maker.model_dump(exclude_defaults=True) for maker in makers], sort_keys=True)


def makers_of(value: str) -> list[Maker]:
    """The makers of a value of LINEAGE; the last made the picture."""
    return [Maker.model_validate(one) for one in json.loads(value)]


def place_of(value: str) -> int:
    """The place of the step that made a candidate, from 0, by its value of LINEAGE."""
    return int(json.loads(value)[-1]["step"].split()[0]) - 1
