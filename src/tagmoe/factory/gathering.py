"""The steps `pick` and `dedupe`, and the samples that come of them.

Of the pictures of one instruction the best that stands becomes the sample; others become its rejected pictures, for
learning from preferences. What was dropped goes to the negatives with its reason. Decisions are columns of the
candidates; the stores follow from them, a fragment at a time, each in one commit with its note.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from tagmoe.data.check.validate import QUARANTINE
from tagmoe.data.store.known_ids import KnownIds
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.factory.columns import Column, fate_of, is_salvageable, score_of
from tagmoe.factory.folder import VERDICT, Folder, verdict, with_lineage
from tagmoe.factory.looks import DEFAULT, numbers
from tagmoe.factory.makers import LINEAGE, Maker, licence_of, lineage, makers_of, place_of
from tagmoe.factory.making import CANDIDATES
from tagmoe.factory.plan import Dedupe, Judge, Pick, Plan, Recaption
from tagmoe.factory.specialists.settings import Make
from tagmoe.pictures import load_image

STORE, NEGATIVES = "store", "negatives"
NOTE = "gathered/"
BLANK = "blank"
LOST = "another picture of the same words is better"
SAME_WORDS = "the root has a sample with these words"
SAME_PICTURE = "the root has a sample with this picture"
READ_ROWS = 32
Group = tuple[str, str, int, str]
Shown = list[tuple[str, np.ndarray]]
"""The target and all pictures that an editor is given, with their digests."""
LIGHT = ("id", "parent", "root", "instruction", "native_task", "tags", "origin", "licence")
"""What is read of a candidate without its pictures."""


class Gathering:
    """Makes the stores of samples and of negatives from the candidates.

    looked: the columns of the steps before. makers: of the steps that wrote words or judged, by place.
    """

    def __init__(self, folder: Folder, plan: Plan, looked: Sequence[Column], makers: Mapping[int, Maker]) -> None:
        self._folder, self._plan, self._looked, self._makers = folder, plan, looked, makers
        self._pick = _column(plan, Pick)
        self._dedupe = _column(plan, Dedupe)

    def run(self, on_fragment: Callable[[int], None] | None = None) -> int:
        """Go through the fragments that were not gathered yet; returns the number of new samples."""
        candidates = self._folder.store(CANDIDATES)
        store, negatives = self._folder.store(STORE), self._folder.store(NEGATIVES)
        decided = [column for column in (self._pick, self._dedupe) if column is not None]
        noted, noted_negatives = set(store.notes(NOTE)), set(negatives.notes(NOTE))
        new = 0
        with candidates.writing(), store.writing(), negatives.writing():
            candidates.declare([pa.field(column.name, VERDICT) for column in decided])
            if QUARANTINE.name not in negatives.columns:
                negatives.declare([QUARANTINE])
            known = KnownIds(store, ("root", "instruction"))
            first = 0
            for fragment in candidates.fragments():
                size = candidates.fragment_rows(fragment)
                name = f"{NOTE}{fragment}"
                if not (name in noted and name in noted_negatives):
                    rows = self._rows(candidates, fragment, decided)
                    self._decide(candidates, fragment, first, rows, known)
                    if name not in noted:
                        samples = list(self._samples(candidates, first, rows))
                        _append(store, samples, name)
                        known.add([f"{record.root}\0{record.instruction}" for record, _ in samples])
                        new += len(samples)
                    if name not in noted_negatives:
                        _append(negatives, list(self._dropped(candidates, first, rows)), name, quarantined=True)
                    if on_fragment is not None:
                        on_fragment(size)
                first += size
        return new

    def _rows(self, candidates: Store, fragment: int, decided: Sequence[Column]) -> list[dict[str, Any]]:
        names = [*LIGHT, LINEAGE.name, *(column.name for column in (*self._looked, *decided))]
        return [row for batch in candidates.fragment(fragment, names, rows=8192) for row in batch.to_pylist()]

    def _decide(
        self, candidates: Store, fragment: int, first: int, rows: list[dict[str, Any]], known: KnownIds
    ) -> None:
        """Fill the columns of `pick` and `dedupe` of a fragment, if a run before has not."""
        if self._pick is not None and any(row[self._pick.name] is None for row in rows):
            for group in self._groups(rows).values():
                best = _best(group, self._looked)
                for row in group:
                    stands = fate_of(row, self._looked) is None
                    row[self._pick.name] = verdict(row is best, LOST if stands and row is not best else "")
            _fill(candidates, fragment, self._pick, rows)
        if self._dedupe is not None and any(row[self._dedupe.name] is None for row in rows):
            self._drop_duplicates(candidates, first, rows, known)
            _fill(candidates, fragment, self._dedupe, rows)

    def _groups(self, rows: Sequence[dict[str, Any]]) -> dict[Group, list[dict[str, Any]]]:
        """The rows among which one is picked."""
        groups: dict[Group, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[self._group(row)].append(row)
        return groups

    def _group(self, row: Mapping[str, Any]) -> Group:
        """An editor's pictures of one instruction for a root are alternatives. A specialist's pairs are none: their
        sources differ."""
        own = row["id"] if self._by_specialist(row) else ""
        return row["parent"], row["instruction"], place_of(row[LINEAGE.name]), own

    def _by_specialist(self, row: Mapping[str, Any]) -> bool:
        return isinstance(self._plan.steps[place_of(row[LINEAGE.name])], Make)

    def _picked(self, row: Mapping[str, Any]) -> bool:
        stands = fate_of(row, self._looked) is None
        return stands and (self._pick is None or row[self._pick.name]["passed"])

    def _drop_duplicates(self, candidates: Store, first: int, rows: list[dict[str, Any]], known: KnownIds) -> None:
        assert self._dedupe is not None
        taken = [number for number, row in enumerate(rows) if self._picked(row)]
        words = {number: f"{rows[number]['root']}\0{self._words(rows[number])[0]}" for number in taken}
        there = known.among(list(words.values()))
        pictures: dict[str, dict[str, list[Shown]]] = defaultdict(lambda: defaultdict(list))
        roots = Counter(rows[number]["root"] for number in taken)
        left = roots.copy()
        for number, row in enumerate(rows):
            reason = ""
            if number in words:
                reason = SAME_WORDS if words[number] in there else ""
                there.add(words[number])
                if not reason and roots[row["root"]] > 1:
                    (record,) = candidates.records([first + number])
                    shown = _shown(record)
                    # A specialist's tasks share the photograph as their target; only pairs of one task can be one.
                    others = pictures[row["root"]][row["native_task"] if self._by_specialist(row) else ""]
                    if any(_alike(one, shown) for one in others):
                        reason = SAME_PICTURE
                    others.append(shown)
                left[row["root"]] -= 1
                if not left[row["root"]]:
                    # Decoded pictures are large; those of a root are of no use to another.
                    pictures.pop(row["root"], None)
            row[self._dedupe.name] = verdict(number in words and not reason, reason)

    def _stands(self, row: Mapping[str, Any]) -> bool:
        return self._picked(row) and (self._dedupe is None or row[self._dedupe.name]["passed"])

    def _words(self, row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], bool]:
        """(instruction, further wordings, whether the words asked for are not those of the sample)."""
        asked = row["instruction"]
        told = [
            json.loads(said["values"])["instruction"]
            for column in self._looked
            if isinstance(column.step, Recaption) and (said := row[column.name]) and said["passed"]
        ]
        others = [column for column in self._looked if not isinstance(column.step, Recaption)]
        if told and is_salvageable(fate_of(row, others), self._looked):
            return told[-1], (), True
        return asked, tuple(dict.fromkeys(text for text in told if text != asked)), False

    def _samples(
        self, candidates: Store, first: int, rows: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[Record, list[Maker]]]:
        numbers_of = {row["id"]: first + number for number, row in enumerate(rows)}
        groups = self._groups(rows)
        standing = [row for row in rows if self._stands(row)]
        chosen = [(row, *self._losers(groups[self._group(row)], row)) for row in standing]
        wanted = [[numbers_of[one["id"]] for one in some] for some in chosen]
        for row, read in zip(standing, _read(candidates, wanted), strict=True):
            record, rejected = read[0], [replace(one.target, role="rejected") for one in read[1:]]
            instruction, further, salvaged = self._words(row)
            makers = [*makers_of(row[LINEAGE.name]), *self._later_makers(row, salvaged)]
            scores = {} if not self._has_judge else {"judge": score_of(row, self._looked)}
            made = replace(
                record,
                instruction=instruction,
                instructions=further,
                images=(*record.images, *rejected),
                quality={**record.quality, **scores},
                licence=licence_of(record.licence, [maker for maker in makers if "judge" not in maker.step]),
                # What the picture shows is another edit than the one that was asked for.
                native_task="" if salvaged else record.native_task,
                tags=None if salvaged else record.tags,
                tag_provenance=None if salvaged else record.tag_provenance,
            )
            yield made, makers

    @property
    def _has_judge(self) -> bool:
        return any(isinstance(column.step, Judge) for column in self._looked)

    def _later_makers(self, row: Mapping[str, Any], salvaged: bool) -> Iterator[Maker]:
        """Those that judged a row or wrote words for it."""
        for column in self._looked:
            maker, said = self._makers.get(column.place), row[column.name]
            if maker is not None and said is not None and said["status"] == "ok":
                wrote = isinstance(column.step, Recaption) and salvaged
                yield maker.model_copy(update={"asked": row["instruction"]}) if wrote else maker

    def _losers(self, group: Sequence[dict[str, Any]], winner: dict[str, Any]) -> list[dict[str, Any]]:
        """The best of the worse pictures of the words; equal ones are no preference, and blank ones teach nothing."""
        most = 0 if self._pick is None else self._pick.step.losers  # type: ignore[attr-defined]
        best = score_of(winner, self._looked)
        others = [
            row
            for row in group
            if (fate_of(row, self._looked) is not None or score_of(row, self._looked) < best)
            and row is not winner
            and not _is_blank(row, self._looked)
        ]
        return sorted(others, key=lambda row: (-score_of(row, self._looked), row["id"]))[:most]

    def _dropped(
        self, candidates: Store, first: int, rows: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[Record, list[Maker], str]]:
        """The candidates that a step found wanting; one that only lost the choice is no failure."""
        fates = [fate_of(row, self._looked) for row in rows]
        wanted = [number for number, fate in enumerate(fates) if fate is not None]
        for number, (record,) in zip(wanted, _read(candidates, [[first + one] for one in wanted]), strict=True):
            fate = fates[number]
            assert fate is not None
            yield record, makers_of(rows[number][LINEAGE.name]), f"step {fate.place + 1}: {fate.reason}"


def _read(store: Store, wanted: Sequence[Sequence[int]]) -> Iterator[list[Record]]:
    """The records of these rows, READ_ROWS groups of them at a time."""
    for start in range(0, len(wanted), READ_ROWS):
        some = wanted[start : start + READ_ROWS]
        records = iter(store.records([number for numbers in some for number in numbers]))
        yield from ([next(records) for _ in numbers] for numbers in some)


def _column(plan: Plan, kind: type[Pick | Dedupe]) -> Column | None:
    return next((Column(place, step) for place, step in plan.of_kind(kind)), None)


def _best(group: Sequence[dict[str, Any]], looked: Sequence[Column]) -> dict[str, Any] | None:
    standing = [row for row in group if fate_of(row, looked) is None]
    return max(standing, key=lambda row: (score_of(row, looked), row["id"]), default=None)


def _is_blank(row: Mapping[str, Any], looked: Sequence[Column]) -> bool:
    return any((said := row.get(column.name)) and said["reason"].startswith(BLANK) for column in looked)


def _shown(record: Record) -> Shown:
    return [(one.digest, np.asarray(load_image(one.data))) for one in (record.target, *record.inputs)]


def _alike(one: Shown, other: Shown) -> bool:
    """Whether two pairs show nearly the same, target and inputs."""
    return len(one) == len(other) and all(
        first == second or numbers(before, after)["copied"] < DEFAULT["copied"]
        for (first, before), (second, after) in zip(one, other, strict=True)
    )


def _fill(store: Store, fragment: int, column: Column, rows: Sequence[Mapping[str, Any]]) -> None:
    store.fill(fragment, pa.table({column.name: pa.array([row[column.name] for row in rows], VERDICT)}))


def _append(store: Store, made: Sequence[Any], note: str, *, quarantined: bool = False) -> None:
    """Append records with their makers, and with the reason of those in quarantine, in one commit with the note."""
    if not made:
        store.set_note(note, {"rows": 0, "rejected": 0})
        return
    table = with_lineage([one[0] for one in made], [lineage(one[1]) for one in made])
    if quarantined:
        table = table.append_column(QUARANTINE, pa.array([[one[2]] for one in made], QUARANTINE.type))
    rejected = sum(picture.role == "rejected" for one in made for picture in one[0].images)
    store.append(table, note=(note, {"rows": len(made), "rejected": rejected}))
