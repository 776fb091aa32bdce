"""Compute the content of a routing report (paper 4.5) from a recording. What cannot be computed gets a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tagmoe.intervals import Bootstrap, Interval
from tagmoe.routing.case_routing import TaskRouting, by_task, mean_routing
from tagmoe.routing.contrasts import Contrast, Variance, contrasts, variance
from tagmoe.routing.effects import Effects, effects
from tagmoe.routing.predictability import Accuracy, task_accuracy
from tagmoe.routing.reading import Recording
from tagmoe.routing.regions import Region, regions
from tagmoe.routing.specialization import (
    RESAMPLES,
    MutualInformation,
    cosine_matrix,
    group_means,
    mutual_information,
    principal_components,
    tag_table,
)
from tagmoe.routing.streams import Streams, streams
from tagmoe.routing.summary import CaseSummary, summarise
from tagmoe.sentences import counted

NO_TASK = "(no task given)"


@dataclass(frozen=True)
class Missing:
    """The reason why something is not in the report, as one sentence."""

    reason: str


@dataclass(frozen=True)
class Steps:
    """Shares of the target's first choices by denoising step, mean over cases. timesteps_S: 1 is noise."""

    timesteps_S: np.ndarray
    shares_SLN: np.ndarray


@dataclass(frozen=True)
class MaskFinding:
    """`mask_concentration` of one image's tokens. inside: (L, N), mean over steps. elsewhere: the same in the masks of
    other cases. by_step: (K, L, N) at timesteps_K. area: mean share of the picture in the mask."""

    area: float
    inside: Interval[np.ndarray]
    elsewhere: Interval[np.ndarray] | None
    by_step: Interval[np.ndarray] | None
    timesteps_K: np.ndarray


@dataclass(frozen=True)
class Similarity:
    """Cosines between tasks' signatures minus their mean. Similar tasks are next to each other."""

    tasks: tuple[str, ...]
    cosine: np.ndarray


@dataclass(frozen=True)
class Components:
    """First principal components of the cases' signatures: coordinates (C, 2) and their shares of the variance."""

    coordinates: np.ndarray
    shares: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Controls:
    """Controls that separate task and picture: contrasts, variance, and accuracy of the task on unseen pictures."""

    contrasts: list[Contrast] | Missing
    variance: Variance | Missing
    accuracy: Accuracy | Missing


@dataclass(frozen=True)
class Findings:
    """The content of a routing report."""

    cases: int
    control_cases: int
    layers: int
    experts: int
    success: float | None
    best: float
    undecided: bool
    thinned: str | None
    everything: TaskRouting
    utilisation: dict[str, TaskRouting]
    signature: dict[str, np.ndarray]
    signature_streams: dict[str, np.ndarray]
    streams: Streams | Missing
    steps: Steps | Missing
    information: MutualInformation | Missing
    information_references: MutualInformation | Missing
    accuracy_layers: Accuracy | Missing
    accuracy_signature: Accuracy | Missing
    tags: dict[str, Interval[np.ndarray]] | Missing
    similarity: Similarity | Missing
    components: Components | Missing
    mask: MaskFinding | Missing
    mask_reference: MaskFinding | Missing
    region: Region | Missing
    controlled: Controls
    effects: Effects | Missing
    case_signatures: dict[str, np.ndarray]


def find(recording: Recording) -> Findings:
    """Compute all findings. Raises ResultError for a damaged recording, MissingError without scikit-learn."""
    everything = summarise(recording)
    cases = [one for one in everything if not one.case.facts.control]
    controls = [one for one in everything if one.case.facts.control]
    if not cases:
        cases, controls = controls, []
    named = [one for one in cases if one.case.facts.task is not None]
    tasks = [one.case.facts.task or NO_TASK for one in named]
    shape = recording.header.shape
    best = float(np.mean([one.best for one in cases]))
    too_few = _too_few_tasks(tasks)
    signature = np.stack([one.signature_LN for one in named]) if named else np.zeros((0, shape.layers, shape.experts))
    verdicts = [one.case.success for one in cases if one.case.success is not None]
    return Findings(
        cases=len(cases),
        control_cases=len(controls),
        layers=shape.layers,
        experts=shape.experts,
        success=float(np.mean(verdicts)) if verdicts else None,
        best=best,
        # Trained gates are far above this. Untrained ones are within a few hundredths of uniform.
        undecided=best < 1.15 / shape.experts,
        thinned=_thinned(cases),
        everything=mean_routing(cases),
        utilisation=by_task([one.case.facts.task or NO_TASK for one in cases], cases),
        signature=group_means(signature, tasks) if named else {},
        signature_streams=group_means(np.stack([one.means_2LN for one in named]), tasks) if named else {},
        streams=_streams(named),
        steps=_steps(cases),
        information=too_few or mutual_information(np.stack([one.target_LN for one in named]), tasks),
        information_references=_information_references(named),
        accuracy_layers=too_few or _accuracy(signature, tasks),
        accuracy_signature=too_few or _accuracy(signature.mean(axis=1, keepdims=True), tasks),
        tags=_tags(cases),
        similarity=too_few or _similarity(group_means(signature, tasks)),
        components=_components(cases),
        mask=_mask(cases, reference=False),
        mask_reference=_mask(cases, reference=True),
        region=regions(recording) or Missing("No picture was edited in two places with the same noise."),
        controlled=_controls(controls or cases),
        effects=_effects(recording),
        case_signatures={one.case.id: one.signature_LN for one in cases},
    )


def _too_few_tasks(tasks: Sequence[str]) -> Missing | None:
    if not tasks:
        return Missing("No case says which task it is.")
    if len(set(tasks)) < 2:
        return Missing(f"All cases are of one task, {tasks[0]}: there is nothing to tell apart.")
    return None


def _streams(named: list[CaseSummary]) -> Streams | Missing:
    """Of cases with references alone: without any, only the target can say something."""
    found = [one for one in named if one.references_LN is not None]
    tasks = [one.case.facts.task or NO_TASK for one in found]
    if not found:
        return Missing("No case with a task has a reference picture.")
    return _too_few_tasks(tasks) or streams(np.stack([one.parts_2LN for one in found]), tasks)


def _steps(cases: list[CaseSummary]) -> Steps | Missing:
    if len({len(one.case.timesteps) for one in cases}) > 1:
        return Missing("The cases have different numbers of steps.")
    return Steps(
        np.mean([one.case.timesteps for one in cases], axis=0), np.mean([one.target_SLN for one in cases], axis=0)
    )


def _information_references(named: list[CaseSummary]) -> MutualInformation | Missing:
    found = [(one.references_LN, one.case.facts.task or NO_TASK) for one in named if one.references_LN is not None]
    shares, tasks = [share for share, _ in found], [task for _, task in found]
    return _too_few_tasks(tasks) or mutual_information(np.stack(shares), tasks)


def _accuracy(signature_CLN: np.ndarray, tasks: Sequence[str]) -> Accuracy | Missing:
    return task_accuracy(signature_CLN, tasks) or Missing("Fewer than two tasks have two cases or more.")


def _tags(cases: list[CaseSummary]) -> dict[str, Interval[np.ndarray]] | Missing:
    tagged = [one for one in cases if one.case.facts.tags]
    names = list(dict.fromkeys(name for one in tagged for name in one.case.facts.tags))
    values = [np.concatenate([one.signature_LN.ravel(), one.signature_LN.mean(axis=0)]) for one in tagged]
    table = tag_table(np.stack(values), [one.case.facts.tags for one in tagged], names) if tagged else {}
    return table or Missing("No tag is on some cases and not on others.")


def _similarity(means: dict[str, np.ndarray]) -> Similarity:
    cosine = cosine_matrix(means)
    # Sort by the direction in which tasks differ most, so that similar tasks are neighbours.
    order = np.argsort(np.linalg.eigh(cosine)[1][:, -1], kind="stable")
    names = list(means)
    return Similarity(tuple(names[i] for i in order), cosine[np.ix_(order, order)])


def _components(cases: list[CaseSummary]) -> Components | Missing:
    features = np.stack([one.signature_LN.ravel() for one in cases])
    if len(features) < 3 or features.shape[1] < 2 or not (features.std(axis=0) > 1e-9).any():
        return Missing("It needs three cases whose signatures differ.")
    facts = [one.case.facts for one in cases]
    return Components(
        *principal_components(features),
        labels=tuple(one.tags[0] if one.tags else one.task or NO_TASK for one in facts),
    )


def _mask(cases: list[CaseSummary], *, reference: bool) -> MaskFinding | Missing:
    found = []
    for one in cases:
        inside = one.inside_reference if reference else one.inside
        if inside is not None:
            found.append((inside, one))
    if not found:
        what = " and a reference of the target's shape" if reference else " that leaves a part of the picture alone"
        return Missing(f"No case has an edit mask{what}.")
    elsewhere = [] if reference else [one.elsewhere.mean(axis=0) for _, one in found if one.elsewhere is not None]
    same_steps = len({len(inside) for inside, _ in found}) == 1
    times = [[one.case.timesteps[k] for k in one.case.kept] for _, one in found] if same_steps else []
    bootstrap = Bootstrap(RESAMPLES)
    return MaskFinding(
        area=float(np.mean([one.area for _, one in found])),
        inside=bootstrap.mean(np.stack([inside.mean(axis=0) for inside, _ in found])),
        elsewhere=bootstrap.mean(np.stack(elsewhere)) if elsewhere else None,
        by_step=bootstrap.mean(np.stack([inside for inside, _ in found])) if same_steps else None,
        timesteps_K=np.mean(times, axis=0) if same_steps else np.zeros(0),
    )


def _controls(cases: list[CaseSummary]) -> Controls:
    signature = np.stack([one.signature_LN for one in cases])
    facts = [one.case.facts for one in cases]
    none = Missing("No two cases differ in the picture, the instruction or the noise alone.")
    split = variance(signature, facts)
    accuracy: Accuracy | Missing = Missing("No table of pictures that each meet every instruction was recorded.")
    if split is not None:
        # One noise, so that nothing but the picture and the instruction differs.
        of_one = [i for i, one in enumerate(facts) if one.seed == facts[0].seed and one.task is not None]
        tasks, images = [facts[i].task or NO_TASK for i in of_one], [facts[i].image for i in of_one]
        accuracy = task_accuracy(signature[of_one], tasks, images) or Missing("Too few pictures or tasks to leave out.")
    return Controls(
        contrasts=contrasts(signature, facts) or none,
        variance=split or Missing("No table of pictures that each meet every instruction was recorded."),
        accuracy=accuracy,
    )


def _effects(recording: Recording) -> Effects | Missing:
    if recording.interventions is None:
        return Missing("No expert was switched off or forced; record with --interventions 2.")
    return effects(recording.interventions, {c.id: c.facts.task or NO_TASK for c in recording.cases})


def _thinned(cases: list[CaseSummary]) -> str | None:
    short = [one.case for one in cases if len(one.case.kept) < len(one.case.timesteps)]
    if not short:
        return None
    first = f"{len(short[0].kept)} of {counted(short[0].timesteps, 'step')}"
    return (
        f"For {len(short)} of {counted(cases, 'case')} the tokens of some steps only were kept (of the first such: "
        f"{first}); "
        "token maps and mask figures are means over those, shares are of all steps."
    )
