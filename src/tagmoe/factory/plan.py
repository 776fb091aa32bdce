"""The plan of a synthesis: which roots, and which steps make samples of them (paper 3.4).

name: my-edits
roots: {store: photographs}
vlm: {endpoint: "http://127.0.0.1:8000/v1", model: Qwen/Qwen3-VL-8B-Instruct, licence: Apache-2.0}
steps:
  - {step: propose, tasks: [add, remove], count: 4}
  - {step: edit, editor: model, model: my/editor, licence: Apache-2.0, seeds: 4}
  - step: check
  - {step: judge, by: vllmq, least: 0.5}
  - step: pick
  - {step: annotate, by: rules}
  - step: invert
  - step: dedupe
  - step: split

Steps come in the order of STAGES. A file says what is made, and never where: the folder is an argument.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.data.sources.native_tasks import EDITS
from tagmoe.errors import ConfigError
from tagmoe.factory.looks import LOOKS
from tagmoe.factory.specialists.settings import SPECIALISTS, Make
from tagmoe.factory.step import Share, Step
from tagmoe.files.yaml_text import read_yaml
from tagmoe.sentences import cut, reason_of

MOST = 10**9


class ServedVLM(Part):
    """A vision-language model: servers of chat completions, or the folder of a local one as `model`.

    licence, may_train: of what it writes; see `Edit`.
    """

    endpoint: str | tuple[str, ...] = ()
    model: str = Field(min_length=1)
    concurrency: int = Field(16, ge=1, le=10_000)
    timeout: float = Field(120.0, gt=0, le=86_400)
    pixels: int = Field(1 << 20, ge=1, le=1 << 26)
    licence: str = "none"
    may_train: bool | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses."""
        return (self.endpoint,) if isinstance(self.endpoint, str) else self.endpoint


class Roots(Part):
    """What samples are made of: a store, or a source as `tagmoe data import` takes it (kind, path, options).

    limit: the first so many. unit: roots that are worked on and kept together; a worker takes one unit at a time.
    """

    store: str | None = None
    kind: str | None = None
    path: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    limit: int | None = Field(None, ge=1, le=MOST)
    unit: int = Field(64, ge=1, le=4096)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.store is None) == (self.kind is None):
            raise ValueError("give either a store or a kind of source")
        return self


class Quotas(Part):
    """How many samples of a task, or with a tag, must survive all steps. round: roots that are tried before the
    survivors are counted again; a task whose quota is met is not tried any more."""

    by: Literal["task", "tag"] = "task"
    least: dict[str, int] = Field(min_length=1)
    round: int = Field(256, ge=1, le=MOST)


class Prices(Part):
    """What things cost, in any currency. hour: of the machine. question: one to a model that is served elsewhere."""

    hour: float = Field(0.0, ge=0, le=10**6)
    question: float = Field(0.0, ge=0, le=10**6)


class _AskStep(Step):
    """A step that asks a model: its own `vlm`, or that of the plan."""

    vlm: ServedVLM | None = None


class Sentences(Part):
    """A sentence encoder finds instructions that say one thing in other words. weights: its folder, as transformers
    reads it. alike: the cosine from which two instructions for one root count as one."""

    weights: str = Field(min_length=1)
    alike: float = Field(0.85, ge=0, le=1)


class Propose(_AskStep):
    """A model writes `count` instructions for a root, of these tasks; without this step roots bring their own.

    alike: share of common words from which two instructions for one root count as one. sentences: a network that
    compares them as well.
    """

    step: Literal["propose"] = "propose"
    tasks: tuple[str, ...] = Field(min_length=1)
    count: int = Field(4, ge=1, le=64)
    alike: Share = 0.8
    sentences: Sentences | None = None

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [task for task in value if task not in EDITS]
        if unknown:
            raise ValueError(f"there is no task {unknown[0]!r}; choose among {', '.join(EDITS)}")
        return value


class Edit(Step):
    """A generalist makes `seeds` pictures of each instruction.

    editor: as `tagmoe eval generate --editor` takes it, or the images server at `endpoint`. timeout: seconds for one
    call, after which the editor's process is ended and its rows are asked one by one; null: the editor works in the
    process of the run, where nothing can end a call. licence: of its pictures (SPDX;
    "none": unknown). may_train: whether its terms allow training on them; null: as the licence says.
    """

    step: Literal["edit"] = "edit"
    editor: str = "model"
    endpoint: str | None = None
    model: str | None = None
    name: str | None = None
    steps: int | None = Field(None, ge=1, le=1000)
    cfg: float | None = Field(None, ge=0, le=100)
    options: dict[str, Any] = Field(default_factory=dict)
    seeds: int = Field(1, ge=1, le=64)
    batch: int = Field(32, ge=1, le=4096)
    timeout: float | None = Field(600.0, gt=0, le=86_400)
    licence: str = "none"
    may_train: bool | None = None


class Check(Step):
    """Blank, copied and shifted pictures, found without a model. thresholds: by task and check, others than those of
    `tagmoe.factory.looks`; null switches a check off."""

    step: Literal["check"] = "check"
    thresholds: dict[str, dict[str, float | None]] = Field(default_factory=dict)

    @field_validator("thresholds")
    @classmethod
    def _known(cls, value: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
        for task, changes in value.items():
            if task not in ("all", *EDITS):
                raise ValueError(f"there is no task {task!r}; choose all, or among {', '.join(EDITS)}")
            for look in changes:
                if look not in LOOKS:
                    raise ValueError(f"there is no check {look!r}; choose among {', '.join(LOOKS)}")
        return value


class Measure(Step):
    """A value of a metric of `tagmoe eval score`, between the target that was made and another picture of the sample.

    by: the metric. weights: folder of its network, where it has one. value: which of its values; by default the first.
    beside: the picture that stands for the metric's source and reference. tasks: native tasks that are measured; others
    pass. A sample that the metric has no value for passes, as one without a face does.
    """

    step: Literal["measure"] = "measure"
    by: str = Field(min_length=1)
    weights: str | None = None
    value: str | None = None
    beside: Literal["source", "reference", "control"] = "source"
    least: float | None = Field(None, ge=-1e6, le=1e6)
    most: float | None = Field(None, ge=-1e6, le=1e6)
    choices: dict[str, str] = Field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("give least, or most, or both")
        return self


class Copies(Part):
    """SSCD finds crops and copies that differ much. weights: the folder of the metric subject-ref:sscd. alike: the
    similarity from which two roots count as one picture."""

    weights: str = Field(min_length=1)
    alike: float = Field(0.75, ge=0, le=1)


class Judge(_AskStep):
    """A judge: TagWorld's oracle, or a judge of `tagmoe eval judge` (a name or a YAML file) and a model.

    least: the lowest value that passes. same_family: take a model of the editor's family all the same.
    """

    step: Literal["judge"] = "judge"
    by: str = Field(min_length=1)
    least: float = Field(0.5, ge=-1000, le=1000)
    same_family: bool = False


class Recaption(_AskStep):
    """A model writes what really changed. salvage: a picture that only the judge refused is kept with these words."""

    step: Literal["recaption"] = "recaption"
    salvage: bool = True


class Pick(Step):
    """The best of the seeds of an instruction. losers: the most of the others that become its rejected pictures."""

    step: Literal["pick"] = "pick"
    losers: int = Field(1, ge=0, le=16)


class Dedupe(Step):
    """One sample of a root and its words, and one of pictures that look the same.

    distance: share of hash bits by which roots may differ and count as one picture; 0 compares bytes. copies: a network
    that looks at the roots as well.
    """

    step: Literal["dedupe"] = "dedupe"
    distance: float = Field(0.1, ge=0, le=0.5)
    copies: Copies | None = None


class Annotate(_AskStep):
    """Tags, as `tagmoe data annotate` gives them."""

    step: Literal["annotate"] = "annotate"
    by: Literal["oracle", "rules", "vlm"] = "rules"


class Invert(_AskStep):
    """Inverse samples, as `tagmoe data invert` makes them. ask: also those whose words a model must write."""

    step: Literal["invert"] = "invert"
    share: float = Field(0.3, ge=0, le=0.5)
    maps: bool = False
    ask: bool = False


class Split(Step):
    """Training and validation by root picture; the sizes of both are told."""

    step: Literal["split"] = "split"


KINDS: dict[str, type[Step]] = {
    kind.model_fields["step"].default: kind
    for kind in (Propose, Edit, Make, Check, Measure, Judge, Recaption, Pick, Dedupe, Annotate, Invert, Split)
}
STAGES: tuple[tuple[str, ...], ...] = (
    ("propose",),
    ("edit", "make"),
    ("check", "measure", "judge", "recaption"),
    ("pick",),
    ("dedupe",),
    ("annotate", "invert", "split"),
)
"""Steps of a stage come in any order, and after those of the stages before it."""
MADE_ONCE = ("propose", "pick", "dedupe", "split")


class Plan(Part):
    """The content of a plan. dataset: of the samples; by default the plan's name. untrainable: what becomes of a maker
    whose licence forbids training on what it makes. steps: none of them read anything but the plan and the roots."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    dataset: str | None = None
    seed: int = Field(0, ge=0, le=2**62)
    roots: Roots
    accept_licences: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    untrainable: Literal["refuse", "mark"] = "refuse"
    vlm: ServedVLM | None = None
    quotas: Quotas | None = None
    prices: Prices = Prices()
    steps: tuple[SerializeAsAny[Step], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        names = [step.step for step in self.steps]
        stages = [next(number for number, stage in enumerate(STAGES) if name in stage) for name in names]
        for name, before, after in zip(names[1:], stages, stages[1:], strict=False):
            if after < before:
                raise ValueError(f"the step {name} comes too late; the order is {', '.join(sum(STAGES, ()))}")
        twice = [name for name in MADE_ONCE if sum(name == one for one in names) > 1]
        if twice:
            raise ValueError(f"the step {twice[0]} stands twice")
        if not self.makes():
            raise ValueError("no step makes pictures; give the step edit, or make")
        if "propose" in names and "edit" not in names:
            raise ValueError("the step propose writes words for the step edit, which is not there")
        return self

    def makes(self) -> list[tuple[int, Edit | Make]]:
        """(position, step) of the steps that make pictures."""
        return [(place, step) for place, step in enumerate(self.steps) if isinstance(step, Edit | Make)]

    @property
    def roots_by_picture(self) -> bool:
        """Whether roots that look alike count as one. Roots that bring their own words may share a picture."""
        return bool(self.of_kind(Propose)) or not self.of_kind(Edit)

    def of_kind(self, kind: type[Step]) -> list[tuple[int, Any]]:
        """(position, step) of the steps of this kind."""
        return [(place, step) for place, step in enumerate(self.steps) if isinstance(step, kind)]

    def vlm_of(self, step: Any) -> ServedVLM:
        """The model that a step asks. Raises ConfigError where none is named."""
        found = step.vlm or self.vlm
        if found is None:
            name = getattr(step, "step", "")
            raise ConfigError(
                f"The step {name} asks a model, and the plan names none; add vlm: with endpoint and model."
            )
        return found


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises ConfigError for what is no plan; the sentence names the step and the field."""
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), f"The plan {str(path)!r}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The plan {str(path)!r} cannot be read: {reason_of(error)}.") from error
    return plan_of(data, f"The plan {str(path)!r}")


def plan_of(data: Any, title: str = "The plan") -> Plan:
    """The plan of plain data. Raises ConfigError; its sentence begins with the title."""
    if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
        raise ConfigError(f"{title} has no list of steps; see docs/factory.md.")
    # Each step is read by itself: an error of a union would name all kinds.
    steps = [_step(given, number, title) for number, given in enumerate(data["steps"], 1)]
    try:
        return Plan.model_validate({**data, "steps": steps})
    except ValidationError as error:
        raise ConfigError(f"{title} is wrong: {wrong_field(error, Plan)}.") from error


def digest_of_settings(values: Mapping[str, Any]) -> str:
    """A digest of plain data, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _step(given: Any, number: int, title: str) -> Step:
    name = given.get("step") if isinstance(given, dict) else None
    if name not in KINDS:
        told = cut(str(name if isinstance(given, dict) else given))
        raise ConfigError(
            f"Step {number} of {title[0].lower()}{title[1:]} is {told!r}; choose one of {', '.join(KINDS)}."
        )
    kind, where = KINDS[name], f"Step {number} ({name}) of {title[0].lower()}{title[1:]}"
    if kind is Make:
        by = given.get("by")
        if not isinstance(by, str) or by not in SPECIALISTS:
            told = "names no specialist in by" if by is None else f"is by {cut(str(by))!r}"
            raise ConfigError(f"{where} {told}; choose one of {', '.join(SPECIALISTS)}.")
        kind = SPECIALISTS[by]
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{where} is wrong: {wrong_field(error, kind)}.") from error
