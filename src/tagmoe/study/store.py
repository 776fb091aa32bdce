"""The answers: an SQLite database in WAL mode. What was acknowledged survives a kill; what is withdrawn is gone.

One thread writes. It takes all that waits and commits it at once, so that one flush of the disk serves many people.
A database is of real or of simulated answers; SQLite itself refuses a person of the other kind.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tagmoe.errors import DataError, UsageError
from tagmoe.sentences import reason_of

T = TypeVar("T")
SCHEMA = (
    "CREATE TABLE study (digest TEXT NOT NULL, simulated INTEGER NOT NULL, about TEXT NOT NULL)",
    "CREATE TABLE person (number INTEGER PRIMARY KEY, simulated INTEGER NOT NULL, consented TEXT, language TEXT, "
    "expertise TEXT, screen TEXT, withdrawn TEXT)",
    "CREATE TABLE page (sequence INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER NOT NULL REFERENCES person, "
    "number INTEGER NOT NULL, attempt TEXT NOT NULL, choices TEXT NOT NULL, shown_ms INTEGER NOT NULL, "
    "zooms INTEGER NOT NULL, changes INTEGER NOT NULL, language TEXT NOT NULL, at TEXT NOT NULL, "
    "UNIQUE (person, number))",
    "CREATE TRIGGER same_kind BEFORE INSERT ON person WHEN NEW.simulated != (SELECT simulated FROM study) "
    "BEGIN SELECT RAISE(ABORT, 'simulated and real answers cannot be mixed'); END",
)
BATCH = 256
"""Most writes of one commit."""


class Full(Exception):
    """The disk takes no more. Nothing of the request was kept."""


class Withdrawn(Exception):
    """The person has withdrawn."""


class Conflict(Exception):
    """The page has another answer already, or is not the next one."""


@dataclass(frozen=True)
class PageAnswer:
    """What a person chose on a page. choices: the position for each criterion, from 0. attempt: made up by the browser
    when the page was shown; a request that is sent twice has the same. shown_ms: by the browser's steady clock."""

    number: int
    attempt: str
    choices: Mapping[str, int]
    shown_ms: int
    zooms: int
    changes: int
    language: str


@dataclass(frozen=True)
class PersonState:
    """Where a person stands. answered: pages that are kept, always the first ones."""

    consented: bool
    withdrawn: bool
    answered: int


@dataclass(frozen=True)
class Kept:
    """All that a database holds. people: facts by number. pages: (person, answer, when) in the order they came."""

    digest: str
    simulated: bool
    about: dict[str, Any]
    people: dict[int, dict[str, Any]]
    pages: list[tuple[int, PageAnswer, str]]


@dataclass
class Store:
    """An open database. Raises DataError for one that cannot be used, UsageError for one of another plan or kind."""

    path: Path
    digest: str
    simulated: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        try:
            self._base = _connect(self.path)
            self._claim()
        except sqlite3.Error as error:
            raise DataError(f"The answers in {str(self.path)!r} cannot be opened ({reason_of(error)}).") from None
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="answers", daemon=True)
        self._writer.start()

    def _claim(self) -> None:
        base = self._base
        base.execute("BEGIN IMMEDIATE")
        try:
            if base.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone() is None:
                for statement in SCHEMA:
                    base.execute(statement)
                row = (self.digest, int(self.simulated), json.dumps(dict(self.about)))
                base.execute("INSERT INTO study VALUES (?, ?, ?)", row)
            digest, simulated = base.execute("SELECT digest, simulated FROM study").fetchone()
            base.execute("COMMIT")
        except BaseException:
            base.execute("ROLLBACK")
            raise
        _check_kind(self.path, digest, bool(simulated), self.digest, self.simulated)

    def close(self) -> None:
        """Finish what waits, and close."""
        self._waiting.put(None)
        self._writer.join()
        self._base.close()

    # Reads and writes both go through the one thread: a person then never sees a state that a write has left behind.
    def ask(self, work: Callable[[], T]) -> Future[T]:
        """Do this in the thread of the database, inside a transaction."""
        future: Future[T] = Future()
        self._waiting.put((work, future))
        return future

    def _write(self) -> None:
        while True:
            batch = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(batch) < BATCH and batch[-1] is not None:
                    batch.append(self._waiting.get_nowait())
            works = [one for one in batch if one is not None]
            if works:
                self._commit(works)
            if batch[-1] is None:
                return

    def _commit(self, works: Sequence[tuple[Callable[[], Any], Future[Any]]]) -> None:
        """Do all in one transaction, each in a savepoint of its own; say so only when it is on the disk."""
        answers: list[tuple[Future[Any], Any, BaseException | None]] = []
        base = self._base
        try:
            base.execute("BEGIN IMMEDIATE")
            for work, future in works:
                base.execute("SAVEPOINT one")
                try:
                    answers.append((future, work(), None))
                except sqlite3.OperationalError:
                    raise
                except Exception as error:
                    base.execute("ROLLBACK TO one")
                    answers.append((future, None, error))
                base.execute("RELEASE one")
            base.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                base.execute("ROLLBACK")
            if len(works) > 1:
                # What one of them asked for may be too much; the others shall not suffer for it.
                for one in works:
                    self._commit([one])
                return
            answers = [(works[0][1], None, Full(reason_of(error)))]
        for future, answer, problem in answers:
            if problem is None:
                future.set_result(answer)
            else:
                future.set_exception(problem)

    def _now(self) -> str:
        return self.clock().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _person(self, number: int) -> PersonState:
        row = self._base.execute("SELECT consented, withdrawn FROM person WHERE number = ?", (number,)).fetchone()
        count = self._base.execute("SELECT count(*) FROM page WHERE person = ?", (number,)).fetchone()[0]
        return PersonState(row is not None and row[0] is not None, row is not None and row[1] is not None, count)

    def state(self, person: int) -> Future[PersonState]:
        """Where a person stands."""
        return self.ask(lambda: self._person(person))

    def consent(self, person: int, language: str, expertise: str, screen: str) -> Future[PersonState]:
        """Keep that a person agreed; a second time changes nothing. Raises Withdrawn."""

        def work() -> PersonState:
            state = self._person(person)
            if state.withdrawn:
                raise Withdrawn
            if not state.consented:
                row = (person, int(self.simulated), self._now(), language, expertise, screen)
                self._base.execute("INSERT INTO person VALUES (?, ?, ?, ?, ?, ?, NULL)", row)
            return self._person(person)

        return self.ask(work)

    def answer(self, person: int, given: PageAnswer) -> Future[PersonState]:
        """Keep the answer of a page. The same attempt again is kept once. Raises Withdrawn, and Conflict for another
        answer of a page that has one, for a page that is not the next, and before consent."""

        def work() -> PersonState:
            state = self._person(person)
            if state.withdrawn:
                raise Withdrawn
            attempt = self._base.execute(
                "SELECT attempt FROM page WHERE person = ? AND number = ?", (person, given.number)
            ).fetchone()
            if attempt is not None and attempt[0] == given.attempt:
                return state
            if attempt is not None or given.number != state.answered or not state.consented:
                raise Conflict
            self._base.execute(
                "INSERT INTO page (person, number, attempt, choices, shown_ms, zooms, changes, language, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    person,
                    given.number,
                    given.attempt,
                    json.dumps(dict(given.choices)),
                    given.shown_ms,
                    given.zooms,
                    given.changes,
                    given.language,
                    self._now(),
                ),
            )
            return self._person(person)

        return self.ask(work)

    def withdraw(self, person: int) -> Future[PersonState]:
        """Delete all that is known of a person; only that somebody withdrew stays."""

        def work() -> PersonState:
            self._base.execute("DELETE FROM page WHERE person = ?", (person,))
            self._base.execute("DELETE FROM person WHERE number = ?", (person,))
            row = (person, int(self.simulated), self._now())
            self._base.execute("INSERT INTO person VALUES (?, ?, NULL, NULL, NULL, NULL, ?)", row)
            return self._person(person)

        return self.ask(work)

    def forget(self) -> Future[None]:
        """Empty the log of writes, which still holds what was deleted from the database."""
        future: Future[None] = Future()

        def work() -> None:
            return None

        def checkpoint(_: Future[None]) -> None:
            with suppress(sqlite3.Error):
                self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            future.set_result(None)

        # The callback runs in the thread of the database, after the commit.
        self.ask(work).add_done_callback(checkpoint)
        return future


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    base.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit is on the disk before it is acknowledged, so that a power cut loses nothing either.
    base.execute("PRAGMA synchronous = FULL")
    base.execute("PRAGMA secure_delete = ON")
    base.execute("PRAGMA foreign_keys = ON")
    return base


def _check_kind(path: Path, digest: str, simulated: bool, wanted: str, wants_simulated: bool) -> None:
    if digest != wanted:
        raise UsageError(f"The answers in {str(path)!r} belong to another plan ({digest[:12]}, not {wanted[:12]}).")
    if simulated != wants_simulated:
        has, other = ("simulated", "real") if simulated else ("real", "simulated")
        raise UsageError(f"{str(path)!r} holds {has} answers, and {other} ones cannot be mixed with them.")


def read_answers(path: Path) -> Kept:
    """All that a database holds. It may be written meanwhile. Raises UsageError where there is none, and DataError."""
    if not path.is_file():
        raise UsageError(f"There are no answers in {str(path)!r}; run tagmoe study serve.")
    try:
        base = sqlite3.connect(path, isolation_level=None, timeout=10)
        base.row_factory = sqlite3.Row
        try:
            base.execute("BEGIN")
            digest, simulated, about = base.execute("SELECT digest, simulated, about FROM study").fetchone()
            people = {row["number"]: dict(row) for row in base.execute("SELECT * FROM person ORDER BY number")}
            pages = [
                (
                    row["person"],
                    PageAnswer(
                        row["number"],
                        row["attempt"],
                        json.loads(row["choices"]),
                        row["shown_ms"],
                        row["zooms"],
                        row["changes"],
                        row["language"],
                    ),
                    row["at"],
                )
                for row in base.execute("SELECT * FROM page ORDER BY sequence")
            ]
        finally:
            base.close()
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise DataError(f"The answers in {str(path)!r} cannot be read ({reason_of(error)}).") from None
    return Kept(digest, bool(simulated), json.loads(about), people, pages)
