"""Find a model by folder or by its name on the Hugging Face hub, as a local folder, and data sets by their name.

Code is never downloaded.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tagmoe.errors import MissingError, TagMoEError, UsageError

# Weights and texts. Neither pickles nor Python files, which could run code.
SUFFIXES = (".safetensors", ".json", ".txt")
ALLOWED = tuple(f"*{suffix}" for suffix in SUFFIXES)
DATA_SUFFIXES = (
    *(".parquet", ".arrow", ".json", ".jsonl", ".csv", ".txt", ".zip", ".tar"),
    *(".png", ".jpg", ".jpeg", ".webp"),
)
"""Tables, texts, pictures and archives of them."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_folder(source: str | Path, *, allow_patterns: Sequence[str] = ALLOWED, **options: Any) -> Path:
    """`source` when it is a folder, else the snapshot of the hub repository `owner/name`, downloaded where needed.

    `allow_patterns` (fnmatch, * also matches /) choose the files; each must end in one of SUFFIXES. `options` go to
    huggingface_hub.snapshot_download: revision, token, cache_dir, local_files_only, force_download.

    Raises MissingError when there is no such folder or the repository cannot be had (no network, unknown, gated),
    UsageError for a file, TagMoEError when the disk becomes full.
    """
    if not all(pattern.endswith(SUFFIXES) for pattern in allow_patterns):
        raise ValueError(f"allow_patterns are {allow_patterns}; each must end in one of {', '.join(SUFFIXES)}")
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        raise UsageError(f"The model {str(source)!r} is a file; give the folder that holds it.")
    if not REPOSITORY.fullmatch(str(source)):
        raise MissingError(
            f"There is no model folder {str(source)!r}; give a folder, the name of a repository (owner/name), or "
            "download one with `hf download <repo> --local-dir <folder>`."
        )
    return _download(str(source), list(allow_patterns), options)


def dataset_snapshot(repository: str, revision: str, allow_patterns: Sequence[str], **options: Any) -> Path:
    """The snapshot of a data set of the hub at a revision, downloaded where needed; its name is the commit.

    `allow_patterns` choose the files; each must end in one of DATA_SUFFIXES. `options` as for `local_folder`.
    Raises MissingError when it cannot be had, TagMoEError when the disk becomes full.
    """
    if not all(pattern.endswith(DATA_SUFFIXES) for pattern in allow_patterns):
        raise ValueError(f"allow_patterns are {allow_patterns}; each must end in one of {', '.join(DATA_SUFFIXES)}")
    return _download(repository, list(allow_patterns), {"repo_type": "dataset", "revision": revision, **options})


def repository_files(repository: str | Path, suffix: str, **options: Any) -> list[str]:
    """Paths of a hub repository's files with this suffix, at the revision that `options` name; nothing is downloaded.

    Without a network, or with local_files_only, those that are on this machine. Raises MissingError.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    name, revision = str(repository), options.get("revision")
    if not REPOSITORY.fullmatch(name) or options.get("local_files_only") or HF_HUB_OFFLINE:
        names = _cached_files(name, revision or "main", options.get("cache_dir"))
    else:
        with _one_sentence(name):
            names = HfApi(token=options.get("token")).list_repo_files(name, revision=revision)
    return sorted(found for found in names if found.endswith(suffix))


def _cached_files(repository: str, revision: str, cache_dir: str | Path | None) -> list[str]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        repositories = frozenset()
    for snapshot in (one for repo in repositories if repo.repo_id == repository for one in repo.revisions):
        if revision == snapshot.commit_hash or revision in snapshot.refs:
            return [file.file_path.relative_to(snapshot.snapshot_path).as_posix() for file in snapshot.files]
    raise MissingError(
        f"There is no folder {repository!r}, and no repository of that name at revision {revision!r} is on this "
        "machine; check the name, or allow a download."
    )


def _download(repository: str, allow_patterns: list[str], options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hides_bars = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hides_bars:
        disable_progress_bars()
    try:
        with _one_sentence(repository):
            return Path(snapshot_download(repository, allow_patterns=allow_patterns, **options))
    finally:
        if hides_bars:
            enable_progress_bars()


@contextmanager
def _one_sentence(repository: str) -> Iterator[None]:
    """Raise what the hub's client raises as an error of ours."""
    try:
        yield
    except Exception as error:
        # The hub client raises its own errors and those of HTTP and of the file system. All mean that no files came.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise TagMoEError(f"The disk became full while {repository!r} was downloaded; free some space.") from error
        raise MissingError(
            f"There is no folder {repository!r}, and no repository of that name can be downloaded from the hub "
            f"({_reason(error)}); check the name and the network, or run `hf download {repository} --local-dir "
            "<folder>` where there is one and give that folder."
        ) from error


def _reason(error: Exception) -> str:
    """Why a download failed, in a few words."""
    name = type(error).__name__
    known = {
        "GatedRepoError": "it is gated: accept its terms on the hub and log in with `hf auth login`",
        "RepositoryNotFoundError": "it does not exist, or is private",
        "RevisionNotFoundError": "it has no such revision",
        "IncompleteSnapshotError": "only a part of it is on this machine and the hub cannot be reached",
        "LocalEntryNotFoundError": "it is not on this machine and the hub cannot be reached",
    }
    return known.get(name) or f"{name}: {(str(error).strip().splitlines() or [''])[0][:120]}".rstrip(": ")
