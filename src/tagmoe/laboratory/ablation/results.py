"""The schema of result.json: the result of one arm at one seed. All tables and figures are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import ResultError
from tagmoe.files.atomic import write_whole
from tagmoe.sentences import reason_of

NAME = "result.json"
BASE = "base"
"""Name of the folder of dense bases, which is beside the folders of the arms."""


class Cases(Part):
    """The held-out cases, and how they were edited. tasks, held_out_*: entry i belongs to case i."""

    per_task: int
    seed: int
    steps: int
    cfg: float
    tasks: tuple[str, ...]
    held_out_paraphrase: tuple[bool, ...]
    held_out_combination: tuple[bool, ...]


class Verdicts(Part):
    """The oracle's verdicts, in the order of the cases. None where a quantity does not apply to a case."""

    success: tuple[bool, ...]
    unchanged: tuple[float | None, ...]
    subject: tuple[float | None, ...]
    face: tuple[float | None, ...]
    style: tuple[float | None, ...]


class FlowByTimestep(Part):
    """L_flow of the averaged weights on fixed held-out samples and noise, at each of these timesteps (1 is noise)."""

    timesteps: tuple[float, ...]
    loss: tuple[float, ...]
    samples: int


class Routing(Part):
    """The routing of the target's tokens on the cases, mean over denoising steps.

    mutual_information_L: nats between task and first-choice expert, by layer. utilisation: {task: L x N shares}.
    tags_exact: how often all tags predicted from the signature are right. tags_f1: their F1. Both are None without a
    trained H_pred.
    """

    mutual_information_L: tuple[float, ...]
    utilisation: dict[str, tuple[tuple[float, ...], ...]]
    tags_exact: float | None = None
    tags_f1: float | None = None


class Result(Part):
    """One arm at one seed.

    common: digest of everything that all arms must share to be compared (recipe, cases, base). settings: all settings
    of the arm's run. curve: validations during training, [{"step", "flow", "success"}]. training: the logged terms at
    every n-th step. parameters: the number of all, and of those a token uses.
    """

    format: Literal[1] = 1
    arm: str
    about: str
    seed: int = Field(ge=0)
    common: str
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: str
    date: str
    seconds: dict[str, float]
    samples: int
    parameters: dict[str, int]
    cases: Cases
    verdicts: Verdicts
    flow: FlowByTimestep
    curve: tuple[dict[str, float], ...]
    training: tuple[dict[str, float], ...]
    routing: Routing | None = None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_whole(path, self.model_dump_json() + "\n")


def read_result(path: Path) -> Result:
    """Read and check one result file. Raises ResultError naming the file and what is wrong with it."""
    try:
        return Result.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = wrong_field(error, Result)
        raise ResultError(f"The result {str(path)!r} is not one of this version: {wrong}.") from error
    except (OSError, ValueError) as error:
        raise ResultError(
            f"The result {str(path)!r} cannot be read ({reason_of(error)}); run the arm again."
        ) from error
