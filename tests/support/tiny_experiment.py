"""A registered experiment so small that a run of it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from support.tiny_training import SETTINGS, write_components

ARMS: dict[str, dict[str, Any]] = {
    "dense": {"moe": None},
    "wide": {"moe": None, "wide": {"num_blocks": 1}},
    "oracle": {"moe": {"router": "family", "mode": "plain"}},
    "text-gate": {"moe": {"gate": "text"}},
}
PLAN = {
    "name": "tiny",
    "seeds": [3, 4],
    "cells": [
        {"conflict": 1.0, "arms": ["dense", "wide", "oracle"]},
        {"conflict": 0.0, "arms": ["text-gate"]},
    ],
    "cases": {"per_task": 1, "seed": 9000, "steps": 1, "cfg": 1.0, "tasks": ["recolour", "style"]},
    "gate": {"seeds": 2, "conflict": 1.0, "baseline": "dense", "arms": ["wide", "oracle"]},
}


def write_arms(folder: Path, **changes: Any) -> Path:
    """Write components, arms and the plan. changes: of the unified stage."""
    common = {**SETTINGS, "components": write_components(folder / "components"), "output_dir": "unused"}
    common["base"] = {"steps": 2, "batch": 4, "unique_samples": 64}
    common["unified"] = {"steps": 4, "batch": 4, "unique_samples": 64, "text_to_image_every": 0} | changes
    (folder / "common.yaml").write_text(yaml.safe_dump(common))
    for name, settings in ARMS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"about": f"arm {name}", "settings": settings}))
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return folder
