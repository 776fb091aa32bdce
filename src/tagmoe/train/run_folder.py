"""The folder of a run: its lock, its recorded settings, and what a resumed run may change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tagmoe.errors import ConfigError, TrainingError, UsageError
from tagmoe.files.atomic import write_whole
from tagmoe.files.yaml_text import read_yaml, write_yaml
from tagmoe.pipeline.model_folder import RECORD
from tagmoe.sentences import reason_of

LOCK = ".lock"
ABSENT = "not set"
# Settings that a resumed run may change, as no weight depends on them. `replicate` changes rounding, but so does the
# number of processes, which may change too. Not threads: a run in one process is exact, and they change its sums.
HARMLESS = frozenset(
    {
        "output_dir",
        "cache_dir",
        "save_every",
        "save_minutes",
        "validate_every",
        "validation_cases",
        "keep_checkpoints",
        "tensorboard",
        "activation_checkpointing",
        "replicate",
        # Its `spike: skip` leaves later steps out, which is what a run resumes for that a spike has stopped.
        "watch",
    }
)


def check_new(folder: Path) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"The output folder {str(folder)!r} is a file; choose another output_dir.")
        # A process that was refused or killed at once leaves nothing but its lock file.
        taken = folder.exists() and any(path.name != LOCK for path in folder.iterdir())
    except OSError as error:
        raise _unusable(folder, error) from error
    if taken:
        raise UsageError(f"The output folder {str(folder)!r} exists and is not empty; add --resume or choose another.")


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder. Raises UsageError when there is none, TrainingError when it is damaged."""
    record = folder / RECORD
    try:
        text = record.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"There is no run to resume in {str(folder)!r}; start it without --resume.") from error
    except UnicodeDecodeError as error:
        raise _damaged(record) from error
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    try:
        recorded = read_yaml(text, str(record))
    except ConfigError as error:
        raise _damaged(record) from error
    if not isinstance(recorded, dict) or not recorded:
        raise _damaged(record)
    return recorded


def check_resumable(folder: Path, settings: Mapping[str, Any]) -> None:
    record = folder / RECORD
    # A record from before the setting existed names no divide; its run has that of the stream.
    recorded = {"divide": "stream", **recorded_settings(folder)}
    for name, before, now in _differences(recorded, settings):
        if name.partition(".")[0] not in HARMLESS:
            raise TrainingError(
                f"The settings differ from those in {str(record)!r}: {name!r} is {_shown(now)} and was "
                f"{_shown(before)}; resume with the same recipe and --set, or choose another output_dir."
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, value before, value now) of every setting that differs. A section that is new or gone is one setting."""
    for name in [*now, *(before.keys() - now.keys())]:
        was, is_ = before.get(name, ABSENT), now.get(name, ABSENT)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            yield from _differences(was, is_, f"{prefix}{name}.")
        elif was != is_:
            yield f"{prefix}{name}", was, is_


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a section ({', '.join(f'{name}: {inner}' for name, inner in list(value.items())[:3])}, ...)"
    return value if value is ABSENT else "null" if value is None else repr(value)


def _unusable(folder: Path, error: Exception) -> UsageError:
    reason = reason_of(error)
    return UsageError(f"The output folder {str(folder)!r} cannot be used ({reason}); choose another output_dir.")


def _damaged(record: Path) -> TrainingError:
    return TrainingError(
        f"The settings of the run, {str(record)!r}, cannot be read; restore the file, or start again in another "
        "output_dir."
    )


@contextmanager
def open_run_folder(folder: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Lock the run's folder and write its settings. If a new run trains nothing, what it made is removed."""
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    with _only_one(folder):
        if not resume:
            check_new(folder)  # checked again, because no other process can start here now
        try:
            write_whole(folder / RECORD, write_yaml(settings))
            yield
        except BaseException:
            if not resume and not (folder / "metrics.jsonl").exists():
                _empty(folder, made)
            raise


def _empty(folder: Path, made: list[Path]) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in made:
        with suppress(OSError):  # another process has put a file into it
            path.rmdir()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same run folder. The lock ends with its process."""
    import fcntl

    try:
        handle = (folder / LOCK).open("w")
    except OSError as error:
        raise _unusable(folder, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"Another process is training in {str(folder)!r}; wait for it or stop it.") from error
        yield
