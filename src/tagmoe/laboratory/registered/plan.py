"""The plan of a registered experiment: which arms run at which seeds and which setting of the conflict dial, in order.

The plan is a YAML file beside the arms:

name: conflict
seeds: [11, 12]
cells: [{conflict: 1.0, arms: [dense, moe]}, {conflict: 0.0, arms: [dense]}]
cases: {per_task: 250, seed: 9000, steps: 12, cfg: 1.0}
gate: {seeds: 3, conflict: 1.0, baseline: dense, arms: [wide, oracle]}
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tagmoe.config import COMMON
from tagmoe.config.describe import wrong_field
from tagmoe.errors import ConfigError
from tagmoe.files.yaml_text import read_yaml
from tagmoe.laboratory.ablation.arms import Arm, load_arms
from tagmoe.sentences import reason_of

MOST = 10**6


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cell(_Block):
    """Arms at one setting of the conflict dial."""

    conflict: float = Field(ge=0, le=1)
    arms: tuple[str, ...] = Field(min_length=1)


class PlannedCases(_Block):
    """The held-out cases of every editing task, and how they are edited: the fields of `measure.Plan`."""

    per_task: int = Field(ge=1, le=MOST)
    seed: int = Field(ge=0)
    steps: int = Field(ge=1, le=1000)
    cfg: float = Field(ge=1, le=100)
    tasks: tuple[str, ...] | None = None


class Gate(_Block):
    """What is looked at after the first seeds: whether any of these arms has a lower flow loss than the baseline."""

    seeds: int = Field(ge=1)
    conflict: float = Field(ge=0, le=1)
    baseline: str
    arms: tuple[str, ...] = Field(min_length=1)


class PlanFile(_Block):
    """The content of a plan file."""

    name: str = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    cells: tuple[Cell, ...] = Field(min_length=1)
    cases: PlannedCases
    gate: Gate | None = None


@dataclass(frozen=True)
class Planned:
    """One run: an arm at a setting of the dial and a seed."""

    arm: Arm
    conflict: float
    seed: int

    @property
    def name(self) -> str:
        """The run's name, which is that of its result."""
        return f"{run_name(self.arm.name, self.conflict)}-seed-{self.seed}"


def run_name(arm: str, conflict: float) -> str:
    """The name of an arm at a setting of the dial."""
    return f"{arm}-alpha-{conflict:g}"


@dataclass(frozen=True)
class Experiment:
    """A plan with its arms. digest: of what the files of the plan and of its arms say."""

    plan: PlanFile
    runs: tuple[Planned, ...]
    digest: str

    def seeds_done(self, finished: set[str]) -> list[int]:
        """The seeds of which all runs are finished."""
        return [s for s in self.plan.seeds if all(run.name in finished for run in self.runs if run.seed == s)]


def read_experiment(recipes: Path, plan: Path, overrides: tuple[str, ...] = ()) -> Experiment:
    """Read a plan and the arms that it names, in the order of its seeds. overrides: changes that all arms share.

    Raises ConfigError for a plan that is wrong, and the errors of `load_arms`.
    """
    try:
        data = read_yaml(plan.read_text(encoding="utf-8"), f"The plan {str(plan)!r}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The plan {str(plan)!r} cannot be read: {reason_of(error)}.") from error
    try:
        content = PlanFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"The plan {str(plan)!r} is wrong: {wrong_field(error, PlanFile)}.") from error
    if len(set(content.seeds)) < len(content.seeds):
        raise ConfigError(f"The plan {str(plan)!r} names a seed twice; name each once.")
    cells = [(cell.conflict, _arms(recipes, cell, overrides)) for cell in content.cells]
    names = [run_name(arm.name, alpha) for alpha, arms in cells for arm in arms]
    if len(set(names)) < len(names):
        raise ConfigError(f"The plan {str(plan)!r} names an arm twice at one setting of the dial; name each once.")
    _check_gate(content, plan, names)
    runs = tuple(Planned(arm, alpha, seed) for seed in content.seeds for alpha, arms in cells for arm in arms)
    # Of what the files say, not of all settings: those that later versions add must not make results another plan's.
    said = [content.model_dump(mode="json"), list(overrides), *(_said(recipes, name) for name in _files(content))]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    return Experiment(content, runs, digest)


def _files(content: PlanFile) -> list[str]:
    return [COMMON, *sorted({f"{arm}.yaml" for cell in content.cells for arm in cell.arms})]


def _said(recipes: Path, name: str) -> Any:
    return read_yaml((recipes / name).read_text(encoding="utf-8"), name)


def _arms(recipes: Path, cell: Cell, overrides: tuple[str, ...]) -> list[Arm]:
    return load_arms(recipes, cell.arms, (f"conflict={cell.conflict}", *overrides))


def _check_gate(content: PlanFile, plan: Path, names: list[str]) -> None:
    gate = content.gate
    if gate is None:
        return
    absent = [arm for arm in (gate.baseline, *gate.arms) if run_name(arm, gate.conflict) not in names]
    if absent or gate.seeds > len(content.seeds):
        raise ConfigError(
            f"The gate of the plan {str(plan)!r} looks at {gate.seeds} seeds of {gate.baseline}, "
            f"{', '.join(gate.arms)} at conflict {gate.conflict:g}, which the plan does not run."
        )
