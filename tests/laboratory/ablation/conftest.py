"""Simulated results: arms whose true success is known, with difficulty by case and luck by seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tagmoe.laboratory.ablation.results import Cases, FlowByTimestep, Result, Routing, Verdicts
from tagmoe.world import TASKS

EDITS_ALL = {"generate", "subject", "style_ref", "structure"}
SKILL = {"dense": -0.4, "moe": 0.0, "align": 0.35, "align-frozen": 0.3, "align-shuffled": 0.02}
VERSIONS = {"python": "3.11.9", "tagmoe": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"}

MakeResult = Callable[..., Result]


def simulate(arm: str, seed: int, *, per_task: int = 8, skill: float | None = None, **changes: Any) -> Result:
    """One arm at one seed. The cases' difficulty is the same for all; the arm's skill moves the log-odds."""
    skill = SKILL.get(arm, 0.0) if skill is None else skill
    shared, own = np.random.default_rng(1), np.random.default_rng([seed, *arm.encode()])
    tasks = tuple(task for task in TASKS for _ in range(per_task))
    count = len(tasks)
    difficulty = shared.normal(0, 1.2, count)
    held = shared.random((3, count))
    luck = own.normal(0, 0.08)

    def drawn(shift: float) -> np.ndarray:
        return own.random(count) < 1 / (1 + np.exp(-(skill + shift + luck - difficulty)))

    asked = {name: held[2] < share for name, share in (("subject", 0.6), ("face", 0.3), ("style", 0.8))}
    edits = np.array([task not in EDITS_ALL for task in tasks])
    kept = {name: _where(mask, np.where(drawn(2.5), 1.0, 0.5)) for name, mask in asked.items()}
    timesteps = tuple(np.linspace(0.1, 0.9, 5).round(2).tolist())
    level = 0.12 * np.exp(-0.1 * skill) * (1 + 0.01 * own.normal())
    steps = np.arange(50, 1001, 50)
    mixture = arm != "dense"
    curve = [
        {
            "step": float(s),
            "flow": float(level * (1 + 2 * np.exp(-s / 250))),
            "success": float(0.4 * (1 - np.exp(-s / 400))),
        }
        for s in steps[4::5]
    ]
    training = [
        {"step": float(s), "flow": float(level * (1 + 2 * np.exp(-s / 250)) * (1 + 0.05 * own.normal()))}
        | (
            {"balance": 1.0, "alignment": float(np.exp(-s / 300)), "tags/effective_rank": 12.0 - s / 200}
            if mixture
            else {}
        )
        for s in steps
    ]
    information = tuple((0.2 + 0.3 * max(skill, 0) + 0.02 * own.random(3)).tolist())
    values: dict[str, Any] = {
        "arm": arm,
        "about": f"simulated arm {arm}",
        "seed": seed,
        "common": "0" * 16,
        "settings": {"seed": seed},
        "versions": VERSIONS,
        "machine": "simulated",
        "date": "2026-01-01",
        "seconds": {"training": 900.0 + 10 * seed, "editing": 60.0},
        "samples": 128_000,
        "parameters": {"all": 2_000_000 if mixture else 1_400_000, "used": 1_400_000},
        "cases": Cases(
            per_task=per_task,
            seed=1000,
            steps=12,
            cfg=3.0,
            tasks=tasks,
            held_out_paraphrase=tuple((held[0] < 0.5).tolist()),
            held_out_combination=tuple((held[1] < 0.3).tolist()),
        ),
        "verdicts": Verdicts(
            success=tuple(drawn(0.0).tolist()), unchanged=_where(edits, np.where(drawn(3), 1.0, 0.8)), **kept
        ),
        "flow": FlowByTimestep(timesteps=timesteps, loss=tuple(level * (0.6 + t) for t in timesteps), samples=256),
        "curve": tuple(curve),
        "training": tuple(training),
        "routing": Routing(
            mutual_information_L=information,
            utilisation=dict.fromkeys(TASKS, ((0.25,) * 4,) * 3),
            tags_exact=0.5 if skill > 0.1 else None,
            tags_f1=0.7 if skill > 0.1 else None,
        )
        if mixture
        else None,
    }
    return Result(**(values | changes))


def _where(mask: np.ndarray, values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(value) if asked else None for asked, value in zip(mask, values, strict=True))


def put(folder: Path, result: Result) -> Path:
    """Write a result where a run leaves it."""
    run = folder / result.arm / f"seed-{result.seed}"
    run.mkdir(parents=True)
    result.write(run / "result.json")
    return run / "result.json"


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """The simulation: make_result(arm, seed, per_task=8, skill=None, **changed_fields)."""
    return simulate


@pytest.fixture(scope="session")
def write_result() -> Callable[[Path, Result], Path]:
    """write_result(folder, result) writes FOLDER/ARM/seed-S/result.json and gives its path."""
    return put


@pytest.fixture(scope="session")
def arms_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's three arms and two switches at 3 seeds; read it, do not change it."""
    folder = tmp_path_factory.mktemp("ablation") / "arms"
    for arm in SKILL:
        for seed in range(3):
            put(folder, simulate(arm, seed))
    return folder
