"""The kinds of sources for `tagmoe data import KIND`. Each kind imports its module when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmoe.errors import UsageError

if TYPE_CHECKING:
    from tagmoe.data.sources.source import Source


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    open: called with the path and the options that the user gave. Values from the command line are texts, except --map
    (a dict) and --count and --seed (numbers). about: one line for `--help`. options: names that the kind accepts.
    needs_path: whether it reads files; else the path is None.
    """

    open: Callable[[Path | None, Mapping[str, Any]], Source]
    about: str
    options: tuple[str, ...] = ()
    needs_path: bool = True


def open_source(kind: str, path: Path | None = None, options: Mapping[str, Any] | None = None) -> Source:
    """Open a source of this kind.

    Raises UsageError for an unknown kind or option and for a missing path, and DataError for files of another kind.
    """
    given = dict(options or {})
    if kind not in KINDS:
        raise UsageError(f"There is no kind of source {kind!r}; choose one of {', '.join(KINDS)}.")
    found = KINDS[kind]
    unknown = [name for name in given if name not in found.options]
    if unknown:
        known = ", ".join(found.options) or "none"
        raise UsageError(f"The source {kind!r} has no option {unknown[0]!r}; it has {known}.")
    if found.needs_path and path is None:
        raise UsageError(f"The source {kind!r} is read from files; give their path.")
    if path is not None and not found.needs_path:
        raise UsageError(f"The source {kind!r} is made here and takes no path; leave {str(path)!r} out.")
    if path is not None and not path.exists():
        raise UsageError(f"There is nothing at {str(path)!r}; check the path.")
    return found.open(path, given)


def _jsonl(path: Path | None, options: Mapping[str, Any]) -> Source:
    from tagmoe.data.sources.jsonl import JsonlSource

    assert path is not None
    return JsonlSource(path, **options)


def _parquet(path: Path | None, options: Mapping[str, Any]) -> Source:
    from tagmoe.data.sources.parquet import ParquetSource

    assert path is not None
    return ParquetSource(path, **options)


def _pairs(path: Path | None, options: Mapping[str, Any]) -> Source:
    from tagmoe.data.sources.pairs import PairsSource

    assert path is not None
    return PairsSource(path, **options)


def _tagworld(path: Path | None, options: Mapping[str, Any]) -> Source:
    from tagmoe.data.sources.tagworld import TagWorldSource

    if "count" not in options:
        raise UsageError("TagWorld has no end; say with --count how many samples to make.")
    return TagWorldSource(**options)


def _published(module: str, opener: str) -> Callable[[Path | None, Mapping[str, Any]], Source]:
    """The opener of a published dataset; its module is imported when it is called."""

    def opened(path: Path | None, options: Mapping[str, Any]) -> Source:
        return getattr(import_module(f"tagmoe.data.sources.{module}"), opener)(path, **options)

    return opened


KINDS: dict[str, Kind] = {
    "jsonl": Kind(_jsonl, "JSONL and picture files, as `tagmoe data export` writes them", ("name", "licence")),
    "parquet": Kind(_parquet, "Hugging Face Parquet, or a folder of save_to_disk", ("name", "licence", "map")),
    "pairs": Kind(
        _pairs, "a folder with before/NAME.png, after/NAME.png, NAME.txt", ("name", "licence", "instruction")
    ),
    "tagworld": Kind(
        _tagworld, "samples of TagWorld (tasks: editing, or names)", ("count", "seed", "tasks"), needs_path=False
    ),
    "instruct-pix2pix": Kind(
        _published("instruct_pix2pix", "open_instruct_pix2pix"), "InstructPix2Pix, of the hub or with seeds.json"
    ),
    "ultraedit": Kind(_published("ultraedit", "UltraEdit"), "UltraEdit, UltraEdit_500k, UltraEdit_Region_Based_100k"),
    "omniedit": Kind(_published("omniedit", "OmniEdit"), "OmniEdit-Filtered-1.2M", ("dev",)),
    "viton-hd": Kind(_published("viton_hd", "VitonHD"), "VITON-HD with agnostic masks", ("layout",)),
    "subjects200k": Kind(
        _published("subjects200k", "Subjects200K"),
        "Subjects200K, both directions",
        ("image_size", "padding", "min_quality"),
    ),
    "magicbrush": Kind(_published("magicbrush", "MagicBrush"), "MagicBrush, all turns", ("dev", "crop_bottom")),
}
