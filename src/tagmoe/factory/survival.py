"""How many rows each step left, by task and tag, and what a sample cost: measured after a run, estimated before.

A step that makes pictures turns instructions into rows, so its rows are more than those before it; all later steps only
leave out. Seconds are those of this machine's clock, of all calls together; the last moments before a kill are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tagmoe.data.store.store import Store
from tagmoe.factory.asking import proposals_column
from tagmoe.factory.columns import Column, columns, fate_of, is_salvageable, title_of
from tagmoe.factory.finishing import FINISHED
from tagmoe.factory.folder import SPENT, SURVIVAL, Folder
from tagmoe.factory.gathering import NOTE, STORE
from tagmoe.factory.makers import place_of
from tagmoe.factory.making import CANDIDATES, UNIT_NOTE, failed_files, unit_of
from tagmoe.factory.meanings import meanings_of
from tagmoe.factory.plan import Dedupe, Edit, Judge, Pick, Plan, Propose, Recaption
from tagmoe.factory.roots import REFUSED, kept_roots, tag_names
from tagmoe.factory.specialists.settings import Make
from tagmoe.factory.words import wishes_of

ASSUMED = {
    "propose": 0.9,
    "edit": 0.98,
    "make": 0.98,
    "check": 0.9,
    "measure": 0.9,
    "judge": 0.5,
    "recaption": 1.0,
    "pick": 1.0,
    "dedupe": 0.98,
}
"""Shares that pass a step, where neither the plan says one nor an earlier run of the folder has measured one. [ours]"""


@dataclass
class StepRows:
    """The rows of a step. dropped: by reason. by_task, by_tag: [rows before, rows after] of each. seconds: spent on it,
    None if it was not counted. kind: makes, if its rows are new ones."""

    title: str
    before: int = 0
    after: int = 0
    makes: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    by_task: dict[str, list[int]] = field(default_factory=dict)
    by_tag: dict[str, list[int]] = field(default_factory=dict)
    seconds: float | None = None
    asked: int = 0

    def count(self, task: str, tags: Sequence[str], *, passed: bool, reason: str = "") -> None:
        """Count a row."""
        self.before += 1
        self.after += passed
        for table, names in ((self.by_task, [task or "(none)"]), (self.by_tag, tags)):
            for name in names:
                both = table.setdefault(name, [0, 0])
                both[0] += 1
                both[1] += passed
        if not passed:
            self.dropped[reason] += 1


@dataclass
class Survival:
    """The table. kept: samples of the store but inverses. salvaged: samples with words that were written after the
    picture. finished: what the last steps told. costs: of a kept sample."""

    steps: list[StepRows]
    kept: int
    inverses: int
    salvaged: int
    preference_pairs: int
    licences: dict[str, int]
    finished: dict[str, Any]
    seconds: float
    cost: float
    quotas: dict[str, list[int]] = field(default_factory=dict)

    @property
    def seconds_a_sample(self) -> float | None:
        """Seconds spent for a kept sample."""
        return self.seconds / self.kept if self.kept else None

    @property
    def cost_a_sample(self) -> float | None:
        """The price of a kept sample."""
        return self.cost / self.kept if self.kept else None

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        steps = [{**vars(step), "dropped": dict(step.dropped.most_common())} for step in self.steps]
        return {
            **vars(self),
            "steps": steps,
            "seconds_a_sample": self.seconds_a_sample,
            "cost_a_sample": self.cost_a_sample,
        }


def survival(folder: Folder, plan: Plan) -> Survival:
    """Read the table from what the folder holds; of a run that was stopped, of what it had."""
    spent = folder.read(SPENT, {})
    steps = [_roots(folder), *_proposals(folder, plan)]
    looked = columns(plan)
    has = folder.has(CANDIDATES)
    makes = _makes(folder, plan) if has else {}
    later = [StepRows(column.title) for column in looked if not isinstance(column.step, Make)]
    chosen = [
        (Column(place, step), StepRows(f"{place + 1} {step.step}"))
        for kind in (Pick, Dedupe)
        for place, step in plan.of_kind(kind)
    ]
    if has:
        seen = iter(later)
        told = [(one, makes[one.place] if isinstance(one.step, Make) else next(seen)) for one in looked]
        _count(folder, makes, told, chosen)
    steps += [*makes.values(), *later, *(rows for _, rows in chosen)]
    for step in steps:
        step.seconds = spent.get(step.title)
    seconds = sum(spent.values())
    asked = sum(step.asked for step in steps)
    kept = _kept(folder)
    return Survival(
        steps=steps,
        finished=folder.read(FINISHED, {}),
        seconds=round(seconds, 3),
        cost=round(plan.prices.hour * seconds / 3600 + plan.prices.question * asked, 6),
        quotas=_quotas(plan, kept.pop("by_task"), kept.pop("by_tag")),
        **kept,
    )


def _roots(folder: Folder) -> StepRows:
    found = StepRows("roots", makes=True)
    for path in sorted((folder.path / REFUSED).glob("*.json")):
        kept = folder.read(f"{REFUSED}/{path.name}", {"refused": {}, "rows": 0})
        found.dropped.update(kept["refused"].values())
        found.before += kept["rows"]
    found.after = found.before - found.dropped.total()
    return found


def _proposals(folder: Folder, plan: Plan) -> Iterator[StepRows]:
    roots = kept_roots(folder, plan)
    for place, step in plan.of_kind(Propose):
        found = StepRows(f"{place + 1} propose", makes=True)
        column, meanings = proposals_column(plan.name), meanings_of(step.sentences)
        if roots is not None and column in roots.columns:
            for batch in roots.scan([column], rows=8192):
                for row in batch.to_pylist():
                    said = row[column]
                    if said is None:
                        continue
                    found.asked += 1
                    if said["status"] != "ok":
                        found.dropped[f"no proposals: {said['reason']}"] += 1
                        continue
                    wishes, alike = wishes_of(said["text"], step.alike, meanings)
                    found.before += len(wishes) + alike
                    found.after += len(wishes)
                    found.dropped["like another proposal for the root"] += alike
                    for wish in wishes:
                        found.by_task.setdefault(wish.task, [0, 0])[1] += 1
        found.dropped += Counter()  # without zeros
        yield found


def _makes(folder: Folder, plan: Plan) -> dict[int, StepRows]:
    """The steps that make pictures, by place. What a specialist finds wrong with its own pairs is counted later."""
    notes = folder.store(CANDIDATES).notes(UNIT_NOTE)
    found = {}
    for place, step in plan.makes():
        rows = StepRows(title_of(place, step), makes=True)
        rows.before = sum(note["rows"] for name, note in notes.items() if unit_of(name)[0] == place)
        for row in folder.failed(failed_files(place, step)):
            rows.dropped[row["reason"]] += 1
            for table, names in ((rows.by_task, [row["task"] or "(none)"]), (rows.by_tag, tag_names(row["tags"]))):
                for name in names:
                    table.setdefault(name, [0, 0])[0] += 1
        rows.after = rows.before - rows.dropped.total()
        found[place] = rows
    return found


def _count(
    folder: Folder,
    makes: Mapping[int, StepRows],
    looked: Sequence[tuple[Column, StepRows]],
    chosen: Sequence[tuple[Column, StepRows]],
) -> None:
    store = folder.store(CANDIDATES)
    there = [one for one in (*looked, *chosen) if one[0].name in store.columns]
    names = ["made_by", "native_task", "tags", *(column.name for column, _ in there)]
    all_columns = [column for column, _ in looked]
    for batch in store.scan(names, rows=8192):
        for row in batch.to_pylist():
            task, tags = row["native_task"], tag_names(row["tags"])
            _count_made(row, makes[place_of(row["made_by"])], all_columns, task, tags)
            for number, (column, rows) in enumerate(looked):
                if (column, rows) in there and not isinstance(column.step, Make):
                    _count_one(row, all_columns[: number + 1], column, rows, task, tags)
            stands = fate_of(row, all_columns) is None
            for column, rows in chosen:
                said = row.get(column.name)
                if stands and said is not None:
                    stands = said["passed"]
                    rows.count(task, tags, passed=stands, reason=said["reason"])


def _count_made(
    row: Mapping[str, Any], step: StepRows, looked: Sequence[Column], task: str, tags: Sequence[str]
) -> None:
    """Count a picture in the step that made it, which may find fault with it."""
    fate = fate_of(row, [column for column in looked if isinstance(column.step, Make)])
    for table, keys in ((step.by_task, [task or "(none)"]), (step.by_tag, tags)):
        for key in keys:
            both = table.setdefault(key, [0, 0])
            both[0] += 1
            both[1] += fate is None
    if fate is not None:
        step.after -= 1
        step.dropped[fate.reason] += 1


def _count_one(
    row: Mapping[str, Any], upto: Sequence[Column], column: Column, rows: StepRows, task: str, tags: list[str]
) -> None:
    before, said = fate_of(row, upto[:-1]), row[column.name]
    if isinstance(column.step, Recaption):
        rows.asked += said is not None
        salvages = is_salvageable(before, upto) and column.step.salvage
        if before is None or salvages:
            reason = "" if said is None else said["reason"]
            # A row that the judge passed stays with its own words, whatever is said of it.
            rows.count(task, tags, passed=fate_of(row, upto) is None, reason=reason or "nothing was said")
        return
    if before is None and said is not None:
        rows.asked += isinstance(column.step, Judge) and column.step.by != "oracle"
        rows.count(task, tags, passed=said["passed"], reason=said["reason"])


def _kept(folder: Folder) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    by_task: Counter[str] = Counter()
    by_tag: Counter[str] = Counter()
    if folder.has(STORE):
        store = folder.store(STORE)
        light = ["operation", "native_task", "tags", "licence", "made_by"]
        for batch in store.scan(light, rows=8192):
            for row in batch.to_pylist():
                is_inverse = row["operation"] == "inverse"
                counts["inverses" if is_inverse else "kept"] += 1
                licences[row["licence"]] += 1
                if not is_inverse:
                    by_task[row["native_task"]] += 1
                    by_tag.update(tag_names(row["tags"]))
                    counts["salvaged"] += '"asked"' in (row["made_by"] or "")
        counts["pairs"] = _rejected(store)
    return {
        "kept": counts["kept"],
        "inverses": counts["inverses"],
        "salvaged": counts["salvaged"],
        "preference_pairs": counts["pairs"],
        "licences": dict(licences),
        "by_task": by_task,
        "by_tag": by_tag,
    }


def _rejected(store: Store) -> int:
    return sum(note["rejected"] for note in store.notes(NOTE).values())


def _quotas(plan: Plan, by_task: Counter[str], by_tag: Counter[str]) -> dict[str, list[int]]:
    if plan.quotas is None:
        return {}
    counts = by_task if plan.quotas.by == "task" else by_tag
    return {name: [counts[name], wanted] for name, wanted in plan.quotas.least.items()}


# Before a run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A step before a run. share: that passes, and seconds a row; of: measured, plan or assumed. rows: before it."""

    title: str
    rows: float
    share: float
    seconds: float | None
    of: str

    @property
    def left(self) -> float:
        """Rows after it."""
        return self.rows * self.share


def estimate(plan: Plan, roots: int, measured: Mapping[str, Any] | None = None) -> list[Estimate]:
    """What each step may leave and take, for so many roots. measured: `Survival.as_data` of an earlier run.

    A step's numbers are those that were measured, else those that the plan says, else ASSUMED; seconds that nobody
    said are None.
    """
    known = {step["title"]: step for step in (measured or {}).get("steps", ())}
    rows = words = float(roots)
    made = 0.0
    found: list[Estimate] = []
    for place, step in enumerate(plan.steps):
        if isinstance(step, Propose):
            rows *= step.count
        elif isinstance(step, Edit):
            rows = words * step.seeds
        elif isinstance(step, Make):
            rows = float(roots * step.pairs)
        share, of = step.survive, "plan"
        if share is None:
            share, of = ASSUMED.get(step.step, 1.0), "assumed"
            if isinstance(step, Pick):
                share = _picked(plan, roots, words)
        seconds = step.seconds
        was = known.get(title_of(place, step))
        if was is not None and was["before"]:
            share, of = was["after"] / was["before"], "measured"
            seconds = None if was["seconds"] is None else was["seconds"] / was["before"]
        found.append(Estimate(title_of(place, step), rows, share, seconds, of))
        rows *= share
        if isinstance(step, Propose):
            words = rows
        elif isinstance(step, Edit | Make):
            made += rows
            rows = made
    return found


def _picked(plan: Plan, roots: int, words: float) -> float:
    """The share of rows that are picked: one of each editor's seeds, and all of specialists. words: instructions."""
    edits = [step.seeds for _, step in plan.of_kind(Edit)]
    pairs = float(roots * sum(step.pairs for _, step in plan.of_kind(Make)))
    return (words * len(edits) + pairs) / max(1.0, words * sum(edits) + pairs)


def measured_before(folder: Folder) -> Mapping[str, Any] | None:
    """What an earlier run of a folder measured."""
    return folder.read(SURVIVAL, None)
