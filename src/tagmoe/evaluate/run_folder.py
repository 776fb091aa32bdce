"""The folder of one editor's outputs on one benchmark, and of their scores.

RUN/run.json               `RunFacts`: the editor with the digest of its weights, settings, seed, digest of the cases
RUN/outputs/CASE.png       an output under the key of its case; one that was ready is kept byte by byte
RUN/answers*.jsonl         `Answer`: a line for each case that was asked; each shard has a file until they are merged
RUN/scores/METRIC*.jsonl   `tagmoe.evaluate.scoring.Score`: a line for each output; a colon in the name is a point
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from PIL import Image
from pydantic import Field, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import DataError, ImageError, UsageError
from tagmoe.evaluate.answers.answer import Answers, Status
from tagmoe.evaluate.benchmarks.cases import Prepared, digest_of, read_part
from tagmoe.evaluate.packed_rows import PackedRows
from tagmoe.files.atomic import write_whole
from tagmoe.files.json_lines import as_line
from tagmoe.pictures import load_image
from tagmoe.sentences import reason_of

FACTS, OUTPUTS, ANSWERS, SCORES = "run.json", "outputs", "answers", "scores"

R = TypeVar("R", bound=Part)
K = TypeVar("K", bound="Kept")


class RunFacts(Part):
    """All that the outputs depend on. editor: `Answers.facts`. rewriting: how instructions were rewritten; None: not.
    sizes: `own`, the size of an output is the editor's choice."""

    format: Literal[1] = 1
    benchmark: str
    cases: str
    editor: dict[str, Any]
    seed: int
    rewriting: dict[str, Any] | None = None
    sizes: Literal["own"] = "own"
    versions: dict[str, str] = Field(default_factory=dict)
    command: str = ""
    date: str = ""

    @classmethod
    def of(cls, prepared: Prepared, answers: Answers, seed: int = 0, **about: Any) -> RunFacts:
        """The facts of a run of these answers on this benchmark. about: versions, command and date.

        Raises UsageError where the editor says something of itself that is no plain data.
        """
        manifest = prepared.manifest
        editor = _plain(answers.facts())
        return cls(benchmark=manifest.benchmark, cases=manifest.digest, editor=editor, seed=seed, **about)

    def depends_on(self) -> dict[str, Any]:
        """The facts that make the outputs; the others only say when and where."""
        return self.model_dump(exclude={"versions", "command", "date"})

    @property
    def key(self) -> str:
        """A digest of them."""
        return digest_of(self.depends_on())

    @property
    def name(self) -> str:
        """What the editor is called in tables."""
        return str(self.editor.get("name", self.editor.get("kind", "editor")))


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they are read back from JSON, so that the same run is known again: there a tuple is a list."""
    try:
        text = json.dumps(dict(facts), allow_nan=False, ensure_ascii=False)
        text.encode()
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The settings of the editor are no plain data ({reason_of(error)}); give texts, finite numbers, lists and "
            "dictionaries."
        ) from None


class Kept(Part):
    """A row of a case. case: its key."""

    id: str
    case: str

    @property
    def rank(self) -> int:
        """Of two rows of a case the one of the higher rank counts."""
        return 0


class Answer(Kept):
    """What became of a case. case: its key. file: the output in the folder. pixels: SHA-256 of size and pixels."""

    status: Status
    reason: str = ""
    file: str | None = None
    pixels: str | None = None
    width: int = 0
    height: int = 0
    seconds: float = 0.0

    @property
    def rank(self) -> int:
        """An answer with an output counts more than one without."""
        return int(self.file is not None)


class Lines:
    """A file of JSON lines that only grows while a command runs, and that survives a kill.

    A line is written at once. Half a line of a killed process is cut off when the file is opened again. One process at
    a time may write it. Raises UsageError when another does, DataError when nothing can be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = self._locked()
        while not self._is_in_place():
            # The command that had it has replaced or removed it since it was opened: rows would go nowhere.
            self._file.close()
            self._file = self._locked()
        remove_unfinished(path.parent, lambda name: name == path.name)
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            self._file.truncate(whole)

    def _locked(self) -> IO[bytes]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("ab+", buffering=0)
        except OSError as error:
            raise DataError(f"Nothing can be written in {str(self._path)!r} ({reason_of(error)}).") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UsageError(f"Another command is writing {str(self._path)!r}; wait for it, or stop it.") from None
        except OSError:
            # Some file systems have no locks.
            pass
        return file

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def add(self, row: Part) -> None:
        """Append a row. Raises DataError when the disk is full."""
        try:
            self._file.write(_line(row))
        except OSError as error:
            raise DataError(f"The disk takes no more in {str(self._path)!r} ({reason_of(error)}).") from None

    def finish(self, rows: Iterable[Part]) -> None:
        """Replace what is in the file by these rows in their order, so that the way there leaves no trace."""
        write_whole(self._path, map(_line, rows))
        self.close()

    def remove(self) -> None:
        """Delete the file, whose rows are in another one now."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give the file up."""
        self._file.close()


def remove_unfinished(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Delete what `write_whole` of a killed process has left. is_ours: whether nobody else writes a file of a name."""
    for path in folder.glob(".*.partial"):
        if is_ours(path.name[1:].removesuffix(".partial").rpartition(".")[0]):
            path.unlink(missing_ok=True)


def _line(row: Part) -> bytes:
    return as_line(row.model_dump_json()).encode()


def read_rows(folder: Path, name: str, kind: type[R]) -> Iterator[R]:
    """The rows of the files NAME.jsonl and NAME-*.jsonl. Half a line at an end, which a kill leaves, is no row.

    Raises DataError for a line that is not of this kind.
    """
    for path in shard_files(folder, name):
        for number, line in enumerate(_whole_lines(path), 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"Line {number} of {str(path)!r} is not one of this version: {wrong_field(error, kind)}; delete "
                    "the file and run the command again."
                ) from None


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({reason_of(error)}).") from None


def by_case(rows: Iterable[K]) -> dict[str, K]:
    """The row of each case: the one of the highest rank, and the last of equal ones."""
    found: dict[str, K] = {}
    _fill(found, rows)
    return found


def packed_by_case(kind: type[K], rows: Iterable[K]) -> PackedRows[K]:
    """The same, packed, for rows that are looked at once or twice. kind: their class."""
    found = PackedRows(kind)
    _fill(found, rows)
    return found


def _fill(found: MutableMapping[str, K], rows: Iterable[K]) -> None:
    for row in rows:
        if row.case not in found or row.rank >= found[row.case].rank:
            found[row.case] = row


def in_order(rows: Mapping[str, K], prepared: Prepared) -> Iterator[K]:
    """The rows in the order of the cases, however they came about."""
    return (rows[case.key] for case in prepared.cases if case.key in rows)


def merge_shards(
    folder: Path, name: str, kind: type[K], prepared: Prepared, is_current: Callable[[K], bool] = lambda row: True
) -> PackedRows[K]:
    """Make one file NAME.jsonl of it and of those of shards, NAME-*.jsonl; returns its rows by the key of the case.

    is_current: rows for which it is false are left out. Raises UsageError while another command writes one of them.
    """
    shards: list[Lines] = []
    try:
        for path in shard_files(folder, name):
            if path.stem != name:
                shards.append(Lines(path))
        rows = packed_by_case(kind, (row for row in read_rows(folder, name, kind) if is_current(row)))
        if shards:
            Lines(folder / f"{name}.jsonl").finish(in_order(rows, prepared))
            for lines in shards:
                lines.remove()
    finally:
        for lines in shards:
            lines.close()
    return rows


def shard_files(folder: Path, name: str) -> list[Path]:
    """The files NAME.jsonl and NAME-*.jsonl that are there."""
    pattern = re.compile(rf"{re.escape(name)}(-\d+-of-\d+)?\.jsonl")
    return [path for path in sorted(folder.glob(f"{name}*.jsonl")) if pattern.fullmatch(path.name)]


def scores_name(metric: str) -> str:
    """The name of the files of a metric's scores: not every file system takes a colon. No metric's name has a point."""
    return metric.replace(":", ".")


def shard_name(name: str, shard: tuple[int, int]) -> str:
    """The name of the file of a shard (number from 1, of how many), without its ending."""
    return name if shard[1] == 1 else f"{name}-{shard[0]}-of-{shard[1]}"


def claim_run(folder: Path, facts: RunFacts) -> None:
    """Make the folder of a run, or check that the one there is of the same facts. Raises UsageError where it is not."""
    file = folder / FACTS
    if file.exists():
        before = read_part(file, RunFacts, "give another folder").depends_on()
        now = facts.depends_on()
        other = next(_differences(before, now), None)
        if other is not None:
            name, had, has = other
            raise UsageError(
                f"The folder {str(folder)!r} holds outputs of another run: its {name} is {had!r}, not {has!r}; give "
                "another folder."
            )
        return
    # Another shard may be writing its facts at this moment, or have done so since.
    if folder.is_dir() and any(not path.name.startswith(f".{FACTS}.") for path in folder.iterdir()):
        if file.exists():
            return claim_run(folder, facts)
        raise UsageError(f"The folder {str(folder)!r} is no run and is not empty; give another name.")
    try:
        folder.mkdir(exist_ok=True)
        write_whole(file, facts.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"The folder {str(folder)!r} cannot be made ({reason_of(error)}).") from None


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name with those above it, value in a, value in b) where plain data differ; None for what is missing."""
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            yield from _differences(left, right, f"{above}{name}.")
        elif left != right:
            yield f"{above}{name}", left, right


@dataclass(frozen=True)
class Run:
    """A run that was read. answers: by the key of the case."""

    folder: Path
    facts: RunFacts
    answers: Mapping[str, Answer]

    @property
    def name(self) -> str:
        """What the editor is called in tables."""
        return self.facts.name

    def picture(self, answer: Answer) -> Image.Image:
        """An output, upright RGB. Raises ImageError where it is gone, damaged, or another picture than was kept."""
        assert answer.file is not None
        picture = load_image(self.folder / answer.file)
        if digest_of_pixels(picture) != answer.pixels:
            raise ImageError(f"{answer.file!r} is not the picture that was kept; generate it again.")
        return picture


def read_run(folder: Path, prepared: Prepared | None = None) -> Run:
    """The run in a folder. Raises UsageError where there is none, and where its cases are not those of `prepared`."""
    if not (folder / FACTS).is_file():
        raise UsageError(f"{str(folder)!r} is no run: it has no {FACTS}; run tagmoe eval generate.")
    facts = read_part(folder / FACTS, RunFacts, "generate the outputs again")
    if prepared is not None and facts.cases != prepared.manifest.digest:
        raise UsageError(
            f"The run {str(folder)!r} is of other cases than {str(prepared.folder)!r} ({facts.benchmark}, digest "
            f"{facts.cases[:12]}, not {prepared.manifest.digest[:12]}); give the benchmark that it was made for."
        )
    return Run(folder, facts, packed_by_case(Answer, read_rows(folder, ANSWERS, Answer)))


def digest_of_pixels(picture: Image.Image) -> str:
    """SHA-256 of the size and the pixels, whatever file they come from."""
    return hashlib.sha256(f"{picture.width}x{picture.height}\n".encode() + picture.tobytes()).hexdigest()
