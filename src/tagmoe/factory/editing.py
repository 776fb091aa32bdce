"""The step `edit`: an editor makes the pictures of a unit of roots, a batch at a time, and each is kept at once.

1. `EditWork` makes the pictures of one unit in any process. Each goes into a file of the unit at once, so a kill loses
   the batch in work.
2. When the unit is whole, the process that holds the store appends its candidates, and notes the unit, in one commit.
A call that fails or takes too long is made again row by row; a row that fails alone is listed with its reason.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.engine import Engine, run
from tagmoe.data.store.record import Picture, Record
from tagmoe.data.store.store import Store
from tagmoe.editor import Editor, in_batches
from tagmoe.errors import DataError, ImageError, TagMoEError
from tagmoe.evaluate.answers.answer import RAISED, NoMoreAnswers, reason_raised
from tagmoe.factory.apart import EditorApart
from tagmoe.factory.folder import Folder, with_lineage
from tagmoe.factory.makers import Maker, lineage
from tagmoe.factory.plan import Edit, Plan
from tagmoe.factory.requests import Request, Wish, candidate, requests_of
from tagmoe.pictures import load_image, png_of
from tagmoe.report.printable import printable
from tagmoe.sentences import counted

CANDIDATES, EDITING, FAILED = "candidates", "editing", "failed"
UNIT_NOTE = "unit/"
GIVE_UP_AFTER = 50
"""So many rows of an editor fail one after the other, and none has succeeded, before the run stops."""


@dataclass(frozen=True)
class Edited:
    """What became of a request. status: ok or failed. data: the picture as PNG, empty if it failed."""

    id: str
    status: str
    reason: str = ""
    data: bytes = b""
    seconds: float = 0.0

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        return vars(self) | {"data": base64.b64encode(self.data).decode()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Edited:
        """The inverse of `to_row`."""
        return cls(**{**row, "data": base64.b64decode(row["data"])})


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
class EditWork:
    """Makes the pictures of one unit: the `work` of an engine. Its value is (rows, seconds) of this call.

    wishes: the instructions of each root that is to be edited, by its row. make: makes the editor; it must pickle.
    """

    uri: str
    folder: Folder
    plan: Plan
    place: int
    units: Units
    wishes: Mapping[int, Sequence[Wish]]
    make: Callable[[], Editor]
    on_rows: Callable[[int], None] | None = None
    _open: tuple[Store, Editor] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # What shows progress belongs to the process that shows it.
        return vars(self) | {"_open": None, "on_rows": None}

    @property
    def step(self) -> Edit:
        """The step."""
        found = self.plan.steps[self.place]
        assert isinstance(found, Edit)
        return found

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
        return Ledger(self.folder.path / EDITING / f"step-{self.place + 1}", unit, Edited.from_row)  # type: ignore[arg-type]

    def __call__(self, unit: int) -> tuple[int, float]:
        if self._open is None:
            timeout = self.step.timeout
            editor = self.make() if timeout is None else EditorApart(self.make, timeout)
            self._open = Store.open(self.uri), editor
        store, editor = self._open
        asked = self.requests(store, unit)
        ledger = self.ledger(unit)
        known = {one.id for one in ledger.answers().values()}  # type: ignore[attr-defined]
        waiting = [(place, request) for place, request in enumerate(asked) if request.id not in known]
        started, failed, done = time.perf_counter(), 0, 0

        def ask(places: list[int]) -> list[Edited]:
            return _edited(editor, [waiting[place][1] for place in places])

        counts = [len(request.pictures) for _, request in waiting]
        with closing(ledger):
            for places, answers in in_batches(counts, ask, batch=self.step.batch):
                for place, answer in zip(places, answers, strict=True):
                    ledger.add(waiting[place][0], answer)  # type: ignore[arg-type]
                    failed = failed + 1 if answer.status == "failed" else 0
                done += len(places)
                if self.on_rows is not None:
                    self.on_rows(len(places))
                if failed >= GIVE_UP_AFTER and failed == done:
                    raise DataError(
                        f"The first {counted(failed, 'row')} of the editor failed, the last with this reason: "
                        f"{answers[-1].reason.rstrip('.')}. Mend the editor, delete {str(ledger.path)!r} and run again."
                    )
        return len(waiting), time.perf_counter() - started

    def close(self) -> None:
        """End the editor's process."""
        if self._open is not None and isinstance(self._open[1], EditorApart):
            self._open[1].close()
        self._open = None


def edit(
    work: EditWork,
    makers: Sequence[Maker],
    units: Sequence[int],
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
) -> Generator[tuple[int, float], None, None]:
    """Make the pictures of these units, and append them to the candidates; yields (rows, seconds) of each unit.

    A unit that is noted already is passed over. Raises DataError at the first unit that fails.
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
        for done in results:
            if done.error is not None:
                raise DataError(f"The step edit stopped; run the same command again. The first failure: {done.error}")
            _append(store, work, makers, done.fragment)
            yield done.value


def unit_of(note: str) -> tuple[int, int]:
    """(place of the step, unit) of a note's name."""
    place, unit = note.removeprefix(UNIT_NOTE).split("/")
    return int(place), int(unit)


def _note(place: int, unit: int | None = None) -> str:
    return f"{UNIT_NOTE}{place}/" + ("" if unit is None else str(unit))


def _append(store: Store, work: EditWork, makers: Sequence[Maker], unit: int) -> None:
    """The candidates of a whole unit in one commit with its note; rows without a picture go into a file before it."""
    asked = work.requests(Store.open(work.uri), unit)
    ledger = work.ledger(unit)
    answers = {one.id: one for one in cast(dict[str, Edited], ledger.answers()).values()}
    records: list[Record] = []
    values: list[str] = []
    failures = []
    for request in asked:
        answer = answers[request.id]
        if answer.status == "ok":
            here = [*makers[:-1], makers[-1].model_copy(update={"seed": request.seed})]
            records.append(candidate(work.plan, request, Picture.of(answer.data), here, work.place))
            values.append(lineage(here))
        else:
            failures.append(_failure(request, answer))
    if failures:
        work.folder.write(f"{FAILED}/{work.place + 1}-edit-{unit:06}.json", failures)
    counts = Counter(answers[request.id].status for request in asked)
    seconds = sum(answers[request.id].seconds for request in asked)
    note = {"rows": len(asked), "ok": counts["ok"], "seconds": round(seconds, 3), "fragment": bool(records)}
    if records:
        store.append(with_lineage(records, values), note=(_note(work.place, unit), note))
    else:
        store.set_note(_note(work.place, unit), note)
    ledger.remove()


def _failure(request: Request, answer: Edited) -> dict[str, Any]:
    wish = request.wish
    return {
        "id": request.id,
        "root": request.root.id,
        "task": wish.task,
        "tags": None if wish.tags is None else list(wish.tags),
        "instruction": wish.instruction,
        "seed": request.seed,
        "reason": answer.reason,
    }


def _edited(editor: Editor, asked: Sequence[Request]) -> list[Edited]:
    """The pictures of a batch. When the call fails, each row is asked by itself, so that one does not fail others."""
    started = time.perf_counter()
    try:
        images = [[load_image(picture.data) for picture in request.pictures] for request in asked]
        outputs = list(editor([one.wish.instruction for one in asked], images, [one.seed for one in asked]))
        if len(outputs) != len(asked):
            raise TagMoEError(f"The editor gave {counted(outputs, 'picture')} for {counted(asked, 'row')}.")
        made = [png_of(load_image(output)) for output in outputs]
    except NoMoreAnswers:
        raise
    except RAISED as error:
        if len(asked) > 1:
            return [answer for one in asked for answer in _edited(editor, [one])]
        why = str(error) if isinstance(error, ImageError) else reason_raised(error)
        seconds = time.perf_counter() - started
        return [Edited(asked[0].id, "failed", printable(why), seconds=seconds)]
    seconds = (time.perf_counter() - started) / len(asked)
    return [Edited(one.id, "ok", data=data, seconds=seconds) for one, data in zip(asked, made, strict=True)]
