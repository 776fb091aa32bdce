"""The result of one run of a registered experiment: one small JSON, from which everything is computed later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import ResultError
from tagmoe.files.atomic import write_whole
from tagmoe.laboratory.ablation.results import FlowByTimestep, Routing
from tagmoe.sentences import reason_of


class Scores(Part):
    """The judge's verdicts. success, edit_done: one digit a case, 1 for yes, in the order of the cases.

    The cases are those of `cases(per_task, seed, tasks)`. unchanged: by task, the mean share of the rest that stayed.
    """

    success: str
    edit_done: str
    unchanged: dict[str, float]
    by_task: dict[str, float]

    @property
    def mean(self) -> float:
        """The share of successes."""
        return self.success.count("1") / len(self.success)


class RegisteredRun(Part):
    """One arm at one seed and setting of the dial.

    plan: the digest of the experiment. processor: its kind, on which the whole run was made. restarts: how often it was
    begun again, for another processor. scores, flow: None where the training diverged; diverged then says how.
    """

    format: Literal[1] = 1
    plan: str
    arm: str
    about: str
    conflict: float
    seed: int = Field(ge=0)
    settings: dict[str, Any]
    cases: dict[str, Any]
    versions: dict[str, str]
    code: str
    processor: str
    restarts: int
    date: str
    seconds: dict[str, float]
    parameters: dict[str, int]
    scores: Scores | None
    flow: FlowByTimestep | None
    curve: tuple[dict[str, float], ...]
    training: tuple[dict[str, float], ...]
    routing: Routing | None = None
    diverged: str | None = None

    @property
    def mean_flow(self) -> float | None:
        """L_flow on held-out samples, the mean over timesteps."""
        return None if self.flow is None else sum(self.flow.loss) / len(self.flow.loss)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.model_dump_json() + "\n")


def read_run(path: Path) -> RegisteredRun:
    """Read and check one result. Raises ResultError naming the file."""
    try:
        return RegisteredRun.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ResultError(
            f"The result {str(path)!r} is not one of this version: {wrong_field(error, RegisteredRun)}."
        ) from error
    except (OSError, ValueError) as error:
        raise ResultError(
            f"The result {str(path)!r} cannot be read ({reason_of(error)}); delete it to run the arm again."
        ) from error
