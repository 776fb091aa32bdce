"""The benchmarks by name, and what they are read from [paper sec. 4.2]."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tagmoe.errors import UsageError
from tagmoe.evaluate.benchmarks.benchmark import Benchmark
from tagmoe.evaluate.benchmarks.described import (
    ENDINGS,
    Described,
    Description,
    packaged_descriptions,
    read_description,
)
from tagmoe.evaluate.benchmarks.dreambench_plus import DreamBenchPlus
from tagmoe.evaluate.benchmarks.emu_edit import EmuEdit
from tagmoe.evaluate.benchmarks.gedit_bench import GEditBench
from tagmoe.evaluate.benchmarks.gedit_bench_v2 import GEditBenchV2
from tagmoe.evaluate.benchmarks.ice_bench import IceBench
from tagmoe.evaluate.benchmarks.imgedit_bench import ImgEditBench
from tagmoe.evaluate.benchmarks.magicbrush import MagicBrushDev
from tagmoe.evaluate.benchmarks.omnicontext import OmniContext
from tagmoe.evaluate.benchmarks.tagworld import TagWorld

TABLES = ("*.parquet", "*.arrow", "*.json", "*.jsonl", "*.csv")
PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.webp")
FREE = ("Apache-2.0", "CC-BY-4.0", "CC0-1.0", "MIT", "own")
"""Licences that nobody is asked to accept. own: the pictures are the user's."""


@dataclass(frozen=True)
class Kind:
    """How a benchmark is made. about, licence: for the list. reads: what --from names; None: it reads nothing.
    from_files: makes it of what --from names. options: what --set may give it, and which values. hub_files: patterns of
    the files that are downloaded of a data set of the hub."""

    about: str
    licence: str
    reads: str | None = None
    from_files: Callable[..., Benchmark] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    hub_files: tuple[str, ...] = (*TABLES, *PICTURES, "*.zip", "*.tar", "*.txt")

    @property
    def needs_acceptance(self) -> bool:
        """Whether the licence is not a free one that is known."""
        return self.licence not in FREE


def _described(description: Description) -> Kind:
    """The benchmark that a description makes of a folder."""
    make = partial(Described, description)
    return Kind(description.about or description.name, description.licence, description.reads, make)


def _kind(made: Any, reads: str, hub_files: tuple[str, ...] = TABLES) -> tuple[str, Kind]:
    return made.name, Kind(made.about, made.licence, reads, made, getattr(made, "options", {}), hub_files)


BENCHMARKS: dict[str, Kind] = {
    TagWorld.name: Kind(TagWorld.about, TagWorld.licence),
    **dict(
        (
            # Its repository also holds the weights of its evaluators, which are not wanted.
            _kind(
                IceBench,
                "the folder or zip of the hub's data set ali-vilab/ICE-Bench",
                hub_files=("*data.jsonl", "*data.zip", "*dataset.zip", *PICTURES),
            ),
            _kind(EmuEdit, "the folder of facebook/emu_edit_test_set"),
            _kind(GEditBench, "the folder of stepfun-ai/GEdit-Bench"),
            _kind(
                DreamBenchPlus,
                "the folder or data.zip of yuangpeng/dreambench_plus",
                hub_files=("*data.zip", "*.txt", *PICTURES),
            ),
            _kind(OmniContext, "the folder of OmniGen2/OmniContext", (*TABLES, *PICTURES)),
            _kind(
                ImgEditBench,
                "a folder of basic_edit.json and the Benchmark.tar of sysuyy/ImgEdit",
                ("*Benchmark.tar", "*_edit.json", "*singleturn.json"),
            ),
            # The training split is large and is not wanted.
            _kind(MagicBrushDev, "the folder of osunlp/MagicBrush", ("*dev-*.parquet",)),
            _kind(GEditBenchV2, "the folder of GEditBench-v2/GEditBench-v2", (*TABLES, *PICTURES)),
        )
    ),
    **{name: _described(description) for name, description in packaged_descriptions().items()},
}


@dataclass(frozen=True)
class Found:
    """Where the files of a benchmark are. repository, revision: of the hub, where they come from it."""

    path: Path
    repository: str | None = None
    revision: str | None = None


def locate(source: str, revision: str | None, hub_files: tuple[str, ...]) -> Found:
    """The files that --from names: a path, or with a revision a data set of the hub, which is downloaded.

    A folder of the hub's cache tells what it is. Raises UsageError, and MissingError where nothing can be downloaded.
    """
    from tagmoe.files.hub import REPOSITORY, dataset_snapshot

    path = Path(source)
    if path.exists():
        if revision is not None:
            raise UsageError(f"{source!r} is here, and --revision is of a data set of the hub; leave it out.")
        from tagmoe.data.sources.places import snapshot_of

        path = snapshot_of(path)
        return Found(path, *_of_cache(path))
    if not REPOSITORY.fullmatch(source):
        raise UsageError(f"There is no folder or file {source!r}; check the path.")
    if revision is None:
        raise UsageError(
            f"There is no folder or file {source!r}; for a data set of the hub of that name add --revision, such as "
            "main or a commit."
        )
    path = dataset_snapshot(source, revision, hub_files)
    return Found(path, source, path.name)


def _of_cache(path: Path) -> tuple[str | None, str | None]:
    """(repository, commit) of a snapshot in the cache of the hub; None for any other folder."""
    path = path.absolute()
    named = re.fullmatch(r"datasets--([\w.-]+?)--([\w.-]+)", path.parent.parent.name)
    if path.parent.name != "snapshots" or named is None:
        return None, None
    return f"{named[1]}/{named[2]}", path.name


def open_benchmark(
    name: str,
    source: str | Path | None,
    *,
    per_task: int | None = None,
    seed: int | None = None,
    accepted: bool = False,
    revision: str | None = None,
    options: Mapping[str, str] | None = None,
) -> tuple[Benchmark, Found | None]:
    """The benchmark of this name (sec. 4.2), or of the description in this YAML file, and where its files are.

    Raises UsageError for an unknown name and for options that it does not take.
    """
    kind = _described(read_description(Path(name))) if name.lower().endswith(ENDINGS) else BENCHMARKS.get(name)
    if kind is None:
        raise UsageError(
            f"There is no benchmark {name!r}; give one of {', '.join(BENCHMARKS)}, or a description ({ENDINGS[0]})."
        )
    unknown = [option for option in options or () if option not in kind.options]
    if unknown:
        known = f"it has {', '.join(kind.options)}" if kind.options else "it has none"
        raise UsageError(f"{name} has no option {unknown[0]!r}; {known}.")
    if kind.needs_acceptance and not accepted:
        raise UsageError(f"The licence of {name} is: {kind.licence}. Add --accept-licence if you may use it.")
    if kind.from_files is None:
        if source is not None or revision is not None:
            raise UsageError(f"{name} is drawn and reads no files; leave --from out.")
        return TagWorld(16 if per_task is None else per_task, 0 if seed is None else seed), None
    if source is None:
        raise UsageError(f"{name} is read from files; give {kind.reads} with --from.")
    if per_task is not None or seed is not None:
        raise UsageError(f"{name} is read from files, so --cases and --seed do not apply; --limit of generate does.")
    found = locate(str(source), revision, kind.hub_files)
    return kind.from_files(found.path, **(options or {})), found
