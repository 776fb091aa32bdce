"""The steps that make pictures: a maker makes those of a unit of roots, a batch at a time, and each is kept at once.

1. `MakeWork` makes the pictures of one unit in any process. Each goes into a file of the unit at once, so a kill loses
   the batch in work.
2. When the unit is whole, the process that holds the store appends its candidates, and notes the unit, in one commit.
Makers are editors (`tagmoe.factory.editing`) and specialists (`tagmoe.factory.specialists.specialist`). A row without a
picture is listed with its reason.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import pyarrow as pa

from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.engine import Engine, run
from tagmoe.data.store.record import Picture, Record
from tagmoe.data.store.store import Store
from tagmoe.editor import in_batches
from tagmoe.errors import DataError
from tagmoe.factory.columns import Column, kind_of
from tagmoe.factory.folder import VERDICT, Folder, verdict, with_lineage
from tagmoe.factory.makers import Maker, lineage
from tagmoe.factory.plan import Edit, Plan
from tagmoe.factory.requests import Pair, Request, Wish, candidate, requests_of
from tagmoe.factory.specialists.settings import Make
from tagmoe.sentences import counted

CANDIDATES, MAKING, FAILED = "candidates", "editing", "failed"
UNIT_NOTE = "unit/"
GIVE_UP_AFTER = 50
"""So many rows of a maker fail one after the other, and none has succeeded, before the run stops."""


@dataclass(frozen=True)
class Made:
    """What became of a request. status: ok; failed: the maker raised an error; unfit: it can make nothing of the root.

    data: the target as an encoded picture, empty without one. pair: what else a specialist gives.
    """

    id: str
    status: str
    reason: str = ""
    data: bytes = b""
    seconds: float = 0.0
    pair: Pair | None = field(default=None, repr=False)

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        row = {name: value for name, value in vars(self).items() if name != "pair"} | {"data": _text(self.data)}
        if self.pair is not None:
            row["pair"] = {
                "instruction": self.pair.instruction,
                "images": [[one.role, _text(one.data)] for one in self.pair.images],
                "fault": self.pair.fault,
                "drawn": dict(self.pair.drawn),
            }
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Made:
        """The inverse of `to_row`."""
        data, given = base64.b64decode(row["data"]), row.get("pair")
        pair = None
        if given is not None:
            images = tuple(Picture.of(base64.b64decode(text), role) for role, text in given["images"])
            pair = Pair(given["instruction"], images, Picture.of(data), given["fault"], given["drawn"])
        return cls(**{**row, "data": data, "pair": pair})

    @classmethod
    def of(cls, request: Request, pair: Pair, seconds: float) -> Made:
        """A specialist's pair."""
        return cls(request.id, "ok", data=pair.target.data, seconds=seconds, pair=pair)


class PictureMaker(Protocol):
    """Makes the pictures of a batch of requests, in the process that it was opened in."""

    def __call__(self, asked: Sequence[Request]) -> list[Made]:
        """What became of each."""
        ...

    def close(self) -> None:
        """End what it has started."""
        ...


@dataclass(frozen=True)
class Units:
    """The roots of a store in units. rows: of the store in all; unit: rows of one."""

    rows: int
    unit: int

    def __len__(self) -> int:
        return -(-self.rows // self.unit)

    def of(self, number: int) -> range:
        """The rows of a unit."""
        return range(number * self.unit, min(self.rows, (number + 1) * self.unit))


@dataclass
class MakeWork:
    """Makes the pictures of one unit: the `work` of an engine. Its value is (rows, seconds) of this call.

    wishes: of each root that is to be worked on, by its row. make: opens the maker; it must pickle.
    """

    uri: str
    folder: Folder
    plan: Plan
    place: int
    units: Units
    wishes: Mapping[int, Sequence[Wish]]
    make: Callable[[], PictureMaker]
    on_rows: Callable[[int], None] | None = None
    _open: tuple[Store, PictureMaker] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # What shows progress belongs to the process that shows it.
        return vars(self) | {"_open": None, "on_rows": None}

    @property
    def column(self) -> Column:
        """The column of the step."""
        return Column(self.place, self.plan.steps[self.place])

    @property
    def batch(self) -> int:
        """Requests in one call: only editors work on several at once."""
        step = self.plan.steps[self.place]
        return step.batch if isinstance(step, Edit) else 1

    def requests(self, store: Store, unit: int) -> list[Request]:
        """The requests of a unit, in order."""
        rows = [row for row in self.units.of(unit) if self.wishes.get(row)]
        return [
            request
            for row, root in zip(rows, store.records(rows) if rows else [], strict=True)
            for request in requests_of(self.plan, self.place, row, root, self.wishes[row])
        ]

    def ledger(self, unit: int) -> Ledger:
        """The file of the pictures of a unit."""
        return Ledger(self.folder.path / MAKING / f"step-{self.place + 1}", unit, Made.from_row)  # type: ignore[arg-type]

    def __call__(self, unit: int) -> tuple[int, float]:
        if self._open is None:
            self._open = Store.open(self.uri), self.make()
        store, maker = self._open
        asked = self.requests(store, unit)
        ledger = self.ledger(unit)
        known = {one.id for one in ledger.answers().values()}  # type: ignore[attr-defined]
        waiting = [(place, request) for place, request in enumerate(asked) if request.id not in known]
        started, failed, done = time.perf_counter(), 0, 0

        def ask(places: list[int]) -> list[Made]:
            return maker([waiting[place][1] for place in places])

        counts = [len(request.pictures) for _, request in waiting]
        with closing(ledger):
            for places, answers in in_batches(counts, ask, batch=self.batch):
                for place, answer in zip(places, answers, strict=True):
                    ledger.add(waiting[place][0], answer)  # type: ignore[arg-type]
                    failed = failed + 1 if answer.status == "failed" else 0
                done += len(places)
                if self.on_rows is not None:
                    self.on_rows(len(places))
                if failed >= GIVE_UP_AFTER and failed == done:
                    what = "editor" if kind_of(self.column.step) == "edit" else f"step {self.column.title}"
                    raise DataError(
                        f"The first {counted(failed, 'row')} of the {what} failed, the last with this reason: "
                        f"{answers[-1].reason.rstrip('.')}. Mend the {what}, delete {str(ledger.path)!r} and run again."
                    )
        return len(waiting), time.perf_counter() - started

    def close(self) -> None:
        """End what the maker has started."""
        if self._open is not None:
            self._open[1].close()
        self._open = None


def make_pictures(
    work: MakeWork,
    makers: Callable[[Request], Sequence[Maker]],
    units: Sequence[int],
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
) -> Generator[tuple[int, float], None, None]:
    """Make the pictures of these units, and append them to the candidates; yields (rows, seconds) of each unit.

    makers: of a request, without seeds; the last is the one that is at work. A unit that is noted already is passed
    over. Raises DataError at the first unit that fails.
    """
    store = work.folder.store(CANDIDATES)
    noted = store.notes(_note(work.place))
    waiting = [unit for unit in units if _note(work.place, unit) not in noted]
    for unit in set(units) - set(waiting):
        # A kill right after the commit of a unit leaves its file.
        work.ledger(unit).remove()
    if not waiting:
        return
    # The store is locked from here on: two commands never make the same pictures at once.
    with (
        store.writing(),
        closing(work),
        closing(run(waiting, work, engine=engine, workers=workers, address=address)) as results,
    ):
        if isinstance(work.column.step, Make):
            store.declare([pa.field(work.column.name, VERDICT)])
        for done in results:
            if done.error is not None:
                raise DataError(
                    f"The step {kind_of(work.column.step)} stopped; run the same command again. The first failure: "
                    f"{done.error}"
                )
            _append(store, work, makers, done.fragment)
            yield done.value


def unit_of(note: str) -> tuple[int, int]:
    """(place of the step, unit) of a note's name."""
    place, unit = note.removeprefix(UNIT_NOTE).split("/")
    return int(place), int(unit)


def failed_files(place: int, step: Any) -> str:
    """How the names of the files begin that list what a step made no picture of."""
    return f"{place + 1}-{kind_of(step)}"


def _note(place: int, unit: int | None = None) -> str:
    return f"{UNIT_NOTE}{place}/" + ("" if unit is None else str(unit))


def _append(store: Store, work: MakeWork, makers: Callable[[Request], Sequence[Maker]], unit: int) -> None:
    """The candidates of a whole unit in one commit with its note; rows without a picture go into a file before it."""
    asked = work.requests(Store.open(work.uri), unit)
    ledger = work.ledger(unit)
    answers = {one.id: one for one in cast(dict[str, Made], ledger.answers()).values()}
    records: list[Record] = []
    values: list[str] = []
    verdicts: list[dict[str, Any]] = []
    failures = []
    for request in asked:
        answer = answers[request.id]
        if answer.status == "ok":
            *before, own = makers(request)
            drawn = {} if answer.pair is None else dict(answer.pair.drawn)
            own = own.model_copy(update={"seed": request.seed, "settings": {**own.settings, **drawn}})
            here = [*before, own]
            made = Picture.of(answer.data) if answer.pair is None else answer.pair
            records.append(candidate(work.plan, request, made, here, work.place))
            values.append(lineage(here))
            fault = "" if answer.pair is None else answer.pair.fault
            verdicts.append(verdict(not fault, fault))
        else:
            failures.append(_failure(request, answer))
    if failures:
        work.folder.write(f"{FAILED}/{failed_files(work.place, work.column.step)}-{unit:06}.json", failures)
    counts = Counter(answers[request.id].status for request in asked)
    seconds = sum(answers[request.id].seconds for request in asked)
    note = {"rows": len(asked), "ok": counts["ok"], "seconds": round(seconds, 3), "fragment": bool(records)}
    if records:
        table = with_lineage(records, values)
        if isinstance(work.column.step, Make):
            table = table.append_column(work.column.name, pa.array(verdicts, VERDICT))
        store.append(table, note=(_note(work.place, unit), note))
    else:
        store.set_note(_note(work.place, unit), note)
    ledger.remove()


def _failure(request: Request, answer: Made) -> dict[str, Any]:
    wish = request.wish
    return {
        "id": request.id,
        "root": request.root.id,
        "task": wish.task,
        "tags": None if wish.tags is None else list(wish.tags),
        "instruction": wish.name,
        "seed": request.seed,
        "reason": answer.reason,
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
