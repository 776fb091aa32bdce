"""The roots: opened, and those refused that may not be used, before anything is spent on them.

A root is refused for a licence that was not accepted, for a picture of a benchmark, and for a picture that looks like
an earlier root's. The rules of the first two are those of `tagmoe data import`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe.data.sources.benchmark_pictures import BenchmarkPictures, benchmark_pictures, look_of
from tagmoe.data.sources.importing import Limits, import_source
from tagmoe.data.sources.registry import open_source
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.factory.copies import KnownCopies, text_of
from tagmoe.factory.folder import Folder
from tagmoe.factory.plan import Dedupe, Plan
from tagmoe.factory.requests import Wish
from tagmoe.tags import TAGS

ROOTS, REFUSED = "roots", "refused"
LIKE_ANOTHER = "picture like an earlier root's"
COPY_OF_ANOTHER = "crop or copy of an earlier root's picture"
READ_ROWS = 16
Progress = Callable[[int, int], None] | None


def open_roots(folder: Folder, plan: Plan, progress: Progress = None) -> Store:
    """The store of roots; a source is imported into the folder first. Raises the errors of opening and importing."""
    roots = plan.roots
    if roots.store is not None:
        return Store.open(roots.store)
    assert roots.kind is not None
    path = None if roots.path is None else Path(roots.path)
    source = open_source(roots.kind, path, roots.options)
    store = Store.open_or_create(folder.path / ROOTS)
    import_source(store, source, accepted_licences=plan.accept_licences, batch_rows=roots.unit, progress=progress)
    return Store.open(folder.path / ROOTS)


def kept_roots(folder: Folder, plan: Plan) -> Store | None:
    """The store of roots as it is; None before they were imported."""
    if plan.roots.store is not None:
        return Store.open(plan.roots.store)
    return Store.open(folder.path / ROOTS) if folder.has(ROOTS) else None


def limits_of(plan: Plan) -> Limits:
    """What roots must not be. Raises UsageError for a benchmark that cannot be read."""
    pictures = BenchmarkPictures.union([benchmark_pictures(Path(place)) for place in plan.benchmarks])
    return Limits(accepted_licences=plan.accept_licences, refused_pictures=pictures)


class Admission:
    """Which roots may be used. Each unit is looked at once; the result is kept in a file."""

    def __init__(self, folder: Folder, plan: Plan, store: Store, limits: Limits) -> None:
        self._folder, self._store, self._limits = folder, store, limits
        step = next((step for _, step in plan.of_kind(Dedupe)), None)
        # Roots that bring their own words may share a picture: then the words tell them apart.
        self._distance = None if step is None or not plan.roots_by_picture else step.distance
        copies = None if step is None or self._distance is None else step.copies
        self._copies = None if copies is None else KnownCopies(copies)
        self._known = BenchmarkPictures(distance=self._distance or 0.0)

    def refused(self, unit: int, rows: Sequence[int]) -> dict[int, str]:
        """The rows of a unit that may not be used, with their reasons. Units are asked for in their order."""
        name = f"{REFUSED}/{unit:06}.json"
        kept = self._folder.read(name, None)
        if kept is None:
            kept = self._looked_at(rows)
            self._folder.write(name, kept)
        self._remember(kept)
        return {int(row): reason for row, reason in kept["refused"].items()}

    def _looked_at(self, rows: Sequence[int]) -> dict[str, Any]:
        refused: dict[str, str] = {}
        digests: list[str] = []
        looks: list[str] = []
        copies: list[str] = []
        before = self._known
        if self._distance is None and not self._limits.refused_pictures.digests:
            return {"rows": len(rows), "refused": self._by_licence(rows), "digests": [], "looks": []}
        for start in range(0, len(rows), READ_ROWS):
            some = rows[start : start + READ_ROWS]
            for row, record in zip(some, self._store.records(some), strict=True):
                reason = self._limits.refusal(record)
                if reason is None and self._distance is not None:
                    reason = self._alike(record, digests, looks) or self._copied(record, copies)
                if reason is not None:
                    refused[str(row)] = reason
        self._known = before
        found = {"rows": len(rows), "refused": refused, "digests": digests, "looks": looks}
        if self._copies is not None:
            self._copies.drop(len(copies))
            found["copies"] = copies
        return found

    def _by_licence(self, rows: Sequence[int]) -> dict[str, str]:
        """What is refused where no picture needs to be looked at."""
        licences = self._store.take(list(rows), ["licence"])["licence"].to_pylist()
        found = zip(rows, map(self._limits.licence_refusal, licences), strict=True)
        return {str(row): reason for row, reason in found if reason is not None}

    def _alike(self, record: Record, digests: list[str], looks: list[str]) -> str | None:
        """Why a root is like an earlier one with the same words; else it is known from now on."""
        assert self._distance is not None
        picture = next(iter(record.inputs), record.target)
        if self._known.has(picture) or self._known.has_like(picture):
            return LIKE_ANOTHER
        found = look_of(picture) if self._distance else None
        digests.append(picture.digest)
        looks += [] if found is None else [found.tobytes().hex()]
        self._remember({"digests": digests[-1:], "looks": looks[-1:] if found is not None else []})
        return None

    def _copied(self, record: Record, copies: list[str]) -> str | None:
        """Why a root is a copy of an earlier one by the network of the step `dedupe`."""
        if self._copies is None:
            return None
        vector = self._copies.vector(next(iter(record.inputs), record.target))
        if vector is None:
            return None
        if self._copies.has_like(vector):
            return COPY_OF_ANOTHER
        copies.append(text_of(vector))
        self._copies.add(copies[-1:])
        return None

    def _remember(self, kept: Mapping[str, Any]) -> None:
        if self._copies is not None:
            self._copies.add(kept.get("copies", []))
        if not kept["digests"]:
            return
        hashes = [np.frombuffer(bytes.fromhex(look), np.uint8)[None] for look in kept["looks"]]
        self._known = BenchmarkPictures(
            self._known.digests | set(kept["digests"]),
            np.concatenate([self._known.hashes, *hashes]),
            self._known.distance,
        )


def own_wishes(store: Store, rows: Sequence[int]) -> dict[int, list[Wish]]:
    """The instruction that each of these roots brings, where it has one."""
    columns = ["instruction", "native_task", "tags", "tag_provenance"]
    table = store.take(rows, columns).to_pylist() if len(rows) else []
    found = {}
    for row, values in zip(rows, table, strict=True):
        given = values["tag_provenance"]
        tags = values["tags"] if given is None or given["status"] == "ok" else None
        if values["instruction"].strip():
            known = None if tags is None else tuple(tags)
            found[row] = [Wish(values["instruction"], values["native_task"], known, given=True)]
    return found


def tag_names(tags: Sequence[int] | None) -> list[str]:
    """The names of tags; empty where they are not known."""
    return [TAGS[index].name for index in tags or ()]
