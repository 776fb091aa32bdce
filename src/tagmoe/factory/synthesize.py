"""Run a plan: step after step over its roots, in rounds, until the roots or the quotas are done (paper 3.4).

Each part of a step is kept as it comes, and the same command goes on after a kill. What a step said under other
settings is dropped with what follows from it; pictures are made again only in another folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tagmoe import __version__
from tagmoe.data.store.engine import Engine
from tagmoe.data.store.store import Store
from tagmoe.editor import Editor
from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.judging.description import read_judge
from tagmoe.factory.asking import ask_candidates, propose
from tagmoe.factory.columns import Column, columns, title_of
from tagmoe.factory.editing import OpenEditing
from tagmoe.factory.finishing import finish
from tagmoe.factory.folder import SPENT, Folder
from tagmoe.factory.gathering import NEGATIVES, STORE, Gathering
from tagmoe.factory.judging import JudgeMaker
from tagmoe.factory.looking import CheckLooks, LookAt, OracleLooks, is_tagworld, look
from tagmoe.factory.looks import VERSION as LOOKS_VERSION
from tagmoe.factory.looks import Limits as LookLimits
from tagmoe.factory.makers import Maker, check_makers, family_of, may_train
from tagmoe.factory.making import CANDIDATES, MakeWork, Units, make_pictures
from tagmoe.factory.meanings import meanings_of
from tagmoe.factory.measuring import MeasureLooks
from tagmoe.factory.plan import (
    Annotate,
    Check,
    Dedupe,
    Edit,
    Invert,
    Judge,
    Measure,
    Plan,
    Propose,
    Recaption,
    ServedVLM,
    digest_of_settings,
)
from tagmoe.factory.requests import Request, Wish
from tagmoe.factory.roots import Admission, limits_of, open_roots, own_wishes, tag_names
from tagmoe.factory.specialists.settings import Make
from tagmoe.factory.specialists.specialist import OpenSpecialist, Specialist, open_specialist
from tagmoe.factory.step import Step
from tagmoe.vlm.question import VLM

ROUND = 65_536
"""Roots of a round where a plan has no quotas."""
Bar = Callable[[str], Any]


@dataclass(frozen=True)
class EditorMade:
    """How an editor is opened, and its facts: name, digest of the weights, settings."""

    make: Callable[[], Editor]
    name: str
    weights: str | None
    settings: Mapping[str, Any]
    licence: str


@dataclass(frozen=True)
class Means:
    """What a plan is run with. editor, vlm: open what a step names. bar: yields a callback (rows done, all)."""

    editor: Callable[[Edit], EditorMade]
    vlm: Callable[[ServedVLM], Callable[[], VLM]]
    bar: Bar
    log: Callable[[str], None]
    engine: Engine = "local"
    workers: int = 1
    address: str | None = None

    @property
    def where(self) -> dict[str, Any]:
        """Where an engine works."""
        return {"engine": self.engine, "workers": self.workers, "address": self.address}


@dataclass
class Run:
    """A plan at work in a folder. Raises UsageError before anything is spent, for what cannot work."""

    plan: Plan
    folder: Folder
    means: Means
    editors: dict[int, EditorMade] = field(default_factory=dict)
    makers: dict[int, Maker] = field(default_factory=dict)
    specialists: dict[int, Specialist[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_oracle()
        for step in self.plan.steps:
            # A judge or a model that is not there is said before anything is spent.
            if isinstance(step, Judge) and step.by != "oracle":
                read_judge(step.by)
            if needs_vlm(step):
                self.plan.vlm_of(step)
        for place, step in self.plan.of_kind(Edit):
            self.editors[place] = self.means.editor(step)
        for _, step in self.plan.of_kind(Propose):
            meanings_of(step.sentences)
        for _, step in self.plan.of_kind(Measure):
            MeasureLooks(step).metric()
        for place, step in self.plan.of_kind(Make):
            self.specialists[place] = open_specialist(step)
        self.makers = dict(_makers(self.plan, self.editors))
        for line in check_makers(self._all_makers(), refuse=self.plan.untrainable == "refuse"):
            self.means.log(line)
        self._check_families()

    def run(self) -> None:
        """All steps. What is done is not done again."""
        self.folder.open(self._facts())
        limits = limits_of(self.plan)
        with self.means.bar("roots") as progress:
            roots = open_roots(self.folder, self.plan, progress)
        rows = len(roots) if self.plan.roots.limit is None else min(len(roots), self.plan.roots.limit)
        if not rows:
            raise DataError(f"The store of roots {roots.uri!r} has no rows; nothing can be made of it.")
        self._rewind()
        self._test_judges()
        units = Units(rows, self.plan.roots.unit)
        admission = Admission(self.folder, self.plan, roots, limits)
        size = ROUND if self.plan.quotas is None else self.plan.quotas.round
        at_once = max(1, size // units.unit)
        for number, first in enumerate(range(0, len(units), at_once)):
            met = self._met(number)
            if self.plan.quotas is not None and len(met) == len(self.plan.quotas.least):
                break
            self._round(roots, units, range(first, min(first + at_once, len(units))), admission, met)
        finish(self)

    def _round(self, roots: Store, units: Units, numbers: range, admission: Admission, met: set[str]) -> None:
        wanted: list[int] = []
        for unit in numbers:
            refused = admission.refused(unit, units.of(unit))
            wanted += [row for row in units.of(unit) if row not in refused]
        words: Mapping[int, Sequence[Wish]] = {}
        if self.plan.of_kind(Edit):
            proposing = self.plan.of_kind(Propose)
            words = propose(self, roots, proposing[0][0], wanted, met) if proposing else own_wishes(roots, wanted)
        for place, step in self.plan.makes():
            wishes = words if isinstance(step, Edit) else self._wishes(roots, place, wanted)
            left = {row: [one for one in some if not self._is_met(one, met)] for row, some in wishes.items()}
            self._make(roots, place, units, numbers, left)
        self._look()
        with self.spending("pick"), self.means.bar("choosing") as progress:
            Gathering(self.folder, self.plan, columns(self.plan), self.makers).run(counting(progress, 0))

    def _wishes(self, roots: Store, place: int, rows: Sequence[int]) -> dict[int, list[Wish]]:
        """What a specialist makes of these roots."""
        names = roots.take(list(rows), ["id"])["id"].to_pylist() if rows else []
        return {row: self.specialists[place].wishes(name) for row, name in zip(rows, names, strict=True)}

    def _make(
        self, roots: Store, place: int, units: Units, numbers: range, wishes: Mapping[int, Sequence[Wish]]
    ) -> None:
        step = self.plan.steps[place]
        assert isinstance(step, Edit | Make)
        total = sum(len(some) for some in wishes.values()) * step.seeds
        title = title_of(place, step)
        opener = OpenSpecialist(step) if isinstance(step, Make) else OpenEditing(self.editors[place].make, step.timeout)
        with self.spending(title), self.means.bar(title) as progress:
            here = self.means.engine == "local" and self.means.workers == 1
            count = counting(progress, total)
            work = MakeWork(roots.uri, self.folder, self.plan, place, units, wishes, opener, count if here else None)
            for rows, _ in make_pictures(work, partial(self._makers_of, place), numbers, **self.means.where):
                if not here:
                    count(rows)

    def _makers_of(self, place: int, request: Request) -> list[Maker]:
        """Who makes what is requested; the last is at work on the pictures."""
        step = self.plan.steps[place]
        if isinstance(step, Make):
            return self.specialists[place].makers(title_of(place, step), request.wish.variant)
        return [*(self.makers[one] for one, _ in self.plan.of_kind(Propose)), self.makers[place]]

    def _all_makers(self) -> list[Maker]:
        """All makers of the plan, those of specialists among them."""
        return [*self.makers.values(), *(maker for _, maker in self._special_makers())]

    def _special_makers(self) -> Iterator[tuple[int, Maker]]:
        for place, specialist in self.specialists.items():
            for maker in specialist.all_makers(title_of(place, specialist.step)):
                yield place, maker

    def _look(self) -> None:
        """Every step that looks at the candidates."""
        looked: list[Column] = []
        for column in columns(self.plan):
            step, store = column.step, self.folder.store(CANDIDATES)
            if isinstance(step, Make):
                looked.append(column)
                continue
            with self.spending(column.title), self.means.bar(column.title) as progress:
                count = counting(progress, len(store))
                look_at = self._look_of(step)
                if look_at is not None:
                    for rows, _ in look(store, column, looked, look_at, **self.means.where):
                        count(rows)
                else:
                    ask_candidates(self, store, column, looked, progress)
            looked.append(column)

    def _look_of(self, step: Step) -> LookAt | None:
        """How a step looks at one candidate by itself; None for a step that asks a model."""
        if isinstance(step, Check):
            return CheckLooks(LookLimits(step.thresholds))
        if isinstance(step, Measure):
            return MeasureLooks(step)
        return OracleLooks(self._tasks, step.least) if isinstance(step, Judge) and step.by == "oracle" else None

    @contextmanager
    def spending(self, title: str) -> Iterator[None]:
        """Count the seconds of a block as spent on a step, also when it is interrupted."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = self.folder.read(SPENT, {})
            seconds = spent.get(title, 0.0) + time.perf_counter() - started
            self.folder.write(SPENT, {**spent, title: round(seconds, 3)})

    @property
    def _tasks(self) -> tuple[str, ...] | None:
        """The tasks of a source of TagWorld, as it draws them."""
        from tagmoe.data.sources.tagworld import task_names

        given = self.plan.roots.options.get("tasks")
        return None if given is None else task_names(str(given))

    def _met(self, number: int) -> set[str]:
        """The tasks or tags whose quota was met before a round. It is kept, for a run after a kill."""
        if self.plan.quotas is None:
            return set()
        name = f"rounds/{number:05}.json"
        kept = self.folder.read(name, None)
        if kept is None:
            counts = self.survivors()
            least = self.plan.quotas.least
            kept = sorted(key for key, wanted in least.items() if counts[key] >= wanted)
            self.folder.write(name, kept)
        return set(kept)

    def survivors(self) -> Counter[str]:
        """Samples so far by task, or by tag, as the quotas count them."""
        counts: Counter[str] = Counter()
        if not self.folder.has(STORE):
            return counts
        for batch in self.folder.store(STORE).scan(["native_task", "tags", "operation"], rows=8192):
            for row in batch.to_pylist():
                if row["operation"] == "inverse":
                    continue
                by_task = self.plan.quotas is None or self.plan.quotas.by == "task"
                counts.update([row["native_task"]] if by_task else tag_names(row["tags"]))
        return counts

    def _is_met(self, wish: Wish, met: set[str]) -> bool:
        quotas = self.plan.quotas
        if quotas is None:
            return False
        keys = [wish.task] if quotas.by == "task" else tag_names(wish.tags)
        wanted = [key for key in keys if key in quotas.least]
        return bool(wanted) and met.issuperset(wanted)

    def _facts(self) -> dict[str, Any]:
        plan = self.plan
        made: dict[str, Any] = {f"{place + 1}": _without_seed(self.makers[place]) for place, _ in plan.of_kind(Edit)}
        edits = [step.model_dump(exclude={"survive", "seconds", "batch", "timeout"}) for _, step in plan.of_kind(Edit)]
        proposals = [_proposal(step) for _, step in plan.of_kind(Propose)]
        fixed = {
            "roots": plan.roots.model_dump(mode="json"),
            "editors": made,
            "edit steps": digest_of_settings({"edit": edits, "propose": proposals}),
            "seed": plan.seed,
            "name": [plan.name, plan.dataset],
            "benchmarks": list(plan.benchmarks),
            "accepted licences": sorted(plan.accept_licences),
            "distance of roots": [_likeness(step) for _, step in plan.of_kind(Dedupe) if plan.roots_by_picture],
        }
        if self.specialists:
            special = [[place, _without_seed(maker)] for place, maker in self._special_makers()]
            steps = [_without_files(step.model_dump(exclude={"survive", "seconds"})) for _, step in plan.of_kind(Make)]
            fixed["specialists"] = digest_of_settings({"makers": special, "steps": steps})
        return {"fixed": fixed, "plan": plan.model_dump(mode="json"), "version": __version__}

    def _rewind(self) -> None:
        """Drop what later steps said under other settings, and the stores that follow from it."""
        now = [
            [place, _settings(step)] for place, step in enumerate(self.plan.steps) if not isinstance(step, Edit | Make)
        ]
        before = self.folder.read("steps.json", None)
        if before is not None and before != now:
            same = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), None)
            same = min(len(before), len(now)) if same is None else same
            first = min([one[0] for one in (before[same:] or []) + (now[same:] or [])], default=0)
            self._forget(first)
        if before != now:
            self.folder.write("steps.json", now)

    def _forget(self, first: int) -> None:
        self.means.log(f"step {first + 1} was changed: what it and later steps had said is dropped")
        self.folder.remove(STORE, NEGATIVES)
        store = self.folder.store(CANDIDATES)
        stale = [name for name in store.columns if name.startswith("step_") and int(name.split("_")[1]) > first]
        if stale:
            with store.writing():
                store.drop(stale)

    def _check_oracle(self) -> None:
        for _, step in self.plan.of_kind(Judge):
            if step.by == "oracle" and not is_tagworld(self.plan.roots.kind):
                raise UsageError("The oracle judges roots of the kind tagworld alone; name another judge.")
            other = next(iter((*self.plan.of_kind(Propose), *self.plan.of_kind(Make))), None)
            if step.by == "oracle" and other is not None:
                raise UsageError(
                    f"The oracle knows the words that TagWorld's roots bring; leave the step {other[1].step} out."
                )

    def _check_families(self) -> None:
        editors = {family_of(self.makers[place].model) for place, _ in self.plan.of_kind(Edit)}
        editors |= {family_of(maker.model) for _, maker in self._special_makers() if maker.weights is not None}
        for place, step in self.plan.of_kind(Judge):
            if step.by == "oracle" or step.same_family:
                continue
            family = family_of(self.plan.vlm_of(step).model)
            if family in editors:
                raise UsageError(
                    f"The judge of step {place + 1} and an editor are both of the family {family!r}, and a judge is "
                    "kind to its own; choose another judge, or set same_family: true."
                )

    def _test_judges(self) -> None:
        """Let every judge that asks a model take its self-test, once. Raises UsageError for one that fails."""
        for place, step in self.plan.of_kind(Judge):
            if step.by == "oracle":
                continue
            name = f"self_test/{place + 1}-{_settings(step)}.json"
            told = self.folder.read(name, None)
            if told is None:
                told = JudgeMaker(step, self.means.vlm(self.plan.vlm_of(step))).test().as_data()
                if told["passed"]:
                    self.folder.write(name, told)
            if not told["passed"]:
                raise UsageError(
                    f"The judge of step {place + 1} fails its self-test: {'; '.join(told['faults'])}. Nothing was "
                    "made; choose another judge."
                )


def counting(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """A function that adds to the number of rows done and moves a bar."""
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, max(total, done) if total else 0)

    return count


def needs_vlm(step: Any) -> bool:
    """Whether a step asks a model."""
    if isinstance(step, Judge):
        return step.by != "oracle"
    if isinstance(step, Annotate):
        return step.by == "vlm"
    return isinstance(step, Propose | Recaption) or (isinstance(step, Invert) and step.ask)


def _makers(plan: Plan, editors: Mapping[int, EditorMade]) -> Iterator[tuple[int, Maker]]:
    """The maker of each step that has one."""
    for place, step in enumerate(plan.steps):
        title = title_of(place, step)
        if isinstance(step, Edit):
            made = editors[place]
            yield (
                place,
                Maker(
                    step=title,
                    model=made.name,
                    weights=made.weights,
                    licence=made.licence,
                    may_train=may_train(made.licence, step.may_train),
                    settings=dict(made.settings),
                ),
            )
        elif isinstance(step, Judge) and step.by == "oracle":
            yield place, Maker(step=title, model="oracle", licence="Apache-2.0", may_train=True)
        elif needs_vlm(step):
            vlm = plan.vlm_of(step)
            yield (
                place,
                Maker(
                    step=title, model=vlm.model, licence=vlm.licence, may_train=may_train(vlm.licence, vlm.may_train)
                ),
            )


def _without_seed(maker: Maker) -> dict[str, Any]:
    return maker.model_dump(exclude={"seed", "asked"})


def _likeness(step: Dedupe) -> Any:
    return step.distance if step.copies is None else [step.distance, _without_files(step.copies.model_dump())]


def _proposal(step: Propose) -> dict[str, Any]:
    values = step.model_dump(exclude={"survive", "seconds", "sentences"})
    if step.sentences is not None:
        values["sentences"] = _without_files(step.sentences.model_dump())
    return values


def _without_files(values: Any) -> Any:
    """Settings without the names of files, which may move; the digests of networks stand in the lineage."""
    if not isinstance(values, dict):
        return values
    return {
        name: _without_files(one) for name, one in values.items() if name not in ("file", "cutouts", "weights", "model")
    }


def _settings(step: Step) -> str:
    """A digest of what a step's answers depend on; its server may move, and estimates may change."""
    given = step.model_dump(mode="json", exclude={"survive", "seconds"})
    if given.get("vlm"):
        given["vlm"] = {name: given["vlm"][name] for name in ("model", "pixels")}
    if isinstance(step, Measure):
        given["weights"] = MeasureLooks(step).key
    return digest_of_settings({**given, "looks": LOOKS_VERSION})
