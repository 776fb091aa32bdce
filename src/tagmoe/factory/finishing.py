"""The last steps, on the store of samples, by what `tagmoe data` has for them: `annotate`, `invert`, `split`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tagmoe.annotation.ask.annotators import OracleAnnotator, RuleAnnotator, VLMAnnotator
from tagmoe.annotation.ask.plan import Plan as AskPlan
from tagmoe.annotation.ask.store import annotate_store
from tagmoe.annotation.ask.texts import InverseAsker, InversePlan
from tagmoe.annotation.rules.rule_set import packaged_rules
from tagmoe.data.inverse.invert import Outcome, Rules, invert, waiting_rows
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError
from tagmoe.factory.gathering import STORE
from tagmoe.factory.plan import Annotate, Invert, Split, Step
from tagmoe.vlm.question import VLM

if TYPE_CHECKING:
    from tagmoe.factory.synthesize import Run

FINISHED = "finished.json"


@dataclass(frozen=True)
class _MakeAnnotator:
    vlm: Callable[[], VLM]
    pixels: int

    def __call__(self) -> VLMAnnotator:
        return VLMAnnotator(self.vlm(), packaged_rules(), pixels=self.pixels)


@dataclass(frozen=True)
class _MakeInverter:
    vlm: Callable[[], VLM]
    pixels: int

    def __call__(self) -> InverseAsker:
        return InverseAsker(self.vlm(), pixels=self.pixels)


def finish(run: Run) -> None:
    """Run the last steps; each is complete when it is run again."""
    if not run.folder.has(STORE):
        return
    told: dict[str, Any] = {}
    for place, step in enumerate(run.plan.steps):
        title = f"{place + 1} {step.step}"
        if isinstance(step, Annotate | Invert | Split):
            with run.spending(title), run.means.bar(title) as progress:
                told[title] = _finished(run, step, progress)
    run.folder.write(FINISHED, told)


def _finished(run: Run, step: Step, progress: Any) -> dict[str, Any]:
    store = Store.open(run.folder.path / STORE)
    if isinstance(step, Annotate):
        return _annotate(run, store, step, progress)
    if isinstance(step, Invert):
        return _invert(run, store, step, progress)
    return dict(_split(store))


def _annotate(run: Run, store: Store, step: Annotate, progress: Any) -> dict[str, Any]:
    make: Callable[[], Any] = RuleAnnotator if step.by == "rules" else OracleAnnotator
    in_flight = 16
    if step.by == "vlm":
        vlm = run.plan.vlm_of(step)
        make, in_flight = _MakeAnnotator(run.means.vlm(vlm), vlm.pixels), 2 * vlm.concurrency
    done = annotate_store(store, make, AskPlan(step.by, in_flight=in_flight), progress=progress, **run.means.where)
    _complain(done.asked["failed"], "annotate")
    statuses: Counter[str] = Counter()
    column = f"annotation_{step.by}"
    for batch in store.scan([column], rows=8192):
        statuses.update(row[column]["status"] for row in batch.to_pylist() if row[column] is not None)
    return dict(statuses)


def _invert(run: Run, store: Store, step: Invert, progress: Any) -> dict[str, Any]:
    rules = Rules({}, step.share, step.maps)
    if step.ask:
        vlm = run.plan.vlm_of(step)
        plan = InversePlan(only=waiting_rows(store, rules), in_flight=2 * vlm.concurrency)
        make = _MakeInverter(run.means.vlm(vlm), vlm.pixels)
        done = annotate_store(store, make, plan, **run.means.where)
        _complain(done.asked["failed"], "invert")
    outcome: Outcome = invert(store, rules, progress=progress)
    return {
        "inverses": outcome.made.total() + outcome.already,
        "waiting": dict(outcome.waiting),
        "refused": dict(outcome.refused),
    }


def _split(store: Store) -> Counter[str]:
    """Samples by split. Raises DataError where a root picture is in both, which the record's own rule excludes."""
    counts: Counter[str] = Counter()
    # The roots of validation are few; those of training would not fit into memory.
    held_out = {
        row["root"]
        for batch in store.scan(["root"], where="split = 'validation'", rows=8192)
        for row in batch.to_pylist()
    }
    for batch in store.scan(["root", "split"], rows=8192):
        for row in batch.to_pylist():
            counts[row["split"]] += 1
            if row["split"] != "validation" and row["root"] in held_out:
                raise DataError(f"The root {row['root'][:12]} is in both splits of {store.uri!r}.")
    return counts


def _complain(failed: int, step: str) -> None:
    if failed:
        raise DataError(f"{failed:,} questions of the step {step} got no answer; run the same command again.")
