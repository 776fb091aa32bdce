"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tagmoe.errors import UsageError
from tagmoe.evaluate.benchmarks.benchmark import Benchmark
from tagmoe.evaluate.benchmarks.ice_bench import IceBench
from tagmoe.evaluate.benchmarks.tagworld import TagWorld


@dataclass(frozen=True)
class Kind:
    """How a benchmark is made. about, licence: for the list. reads: what --from names; None: it reads nothing.
    from_files: makes it of what --from names. needs_acceptance: the licence is not a free one that is known."""

    about: str
    licence: str
    reads: str | None = None
    from_files: Callable[[Path], Benchmark] | None = None
    needs_acceptance: bool = False


BENCHMARKS: dict[str, Kind] = {
    TagWorld.name: Kind(TagWorld.about, TagWorld.licence),
    IceBench.name: Kind(
        IceBench.about,
        IceBench.licence,
        reads="the folder or zip of the hub's data set ali-vilab/ICE-Bench",
        from_files=IceBench,
        needs_acceptance=True,
    ),
}


def open_benchmark(
    name: str, source: Path | None, *, per_task: int | None = None, seed: int | None = None, accepted: bool = False
) -> Benchmark:
    """The benchmark of this name. Raises UsageError for an unknown name and for options that it does not take."""
    if name not in BENCHMARKS:
        raise UsageError(f"There is no benchmark {name!r}; give one of {', '.join(BENCHMARKS)}.")
    kind = BENCHMARKS[name]
    if kind.needs_acceptance and not accepted:
        raise UsageError(f"The licence of {name} is: {kind.licence}. Add --accept-licence if you may use it.")
    if kind.from_files is None:
        if source is not None:
            raise UsageError(f"{name} is drawn and reads no files; leave --from out.")
        return TagWorld(16 if per_task is None else per_task, 0 if seed is None else seed)
    if source is None:
        raise UsageError(f"{name} is read from files; give {kind.reads} with --from.")
    if per_task is not None or seed is not None:
        raise UsageError(f"{name} is read from files, so --cases and --seed do not apply; --limit of generate does.")
    return kind.from_files(source)
