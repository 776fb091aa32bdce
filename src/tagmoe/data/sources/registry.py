"""The kinds of sources for `tagmoe data import KIND`. Each kind imports its module when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
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

    module, opener: what is called, in `tagmoe.data.sources`, with the path and the options that the user gave. Values
    from the command line are texts, except --map and --constant (dicts), --root (a path), --count and --seed (numbers).
    options: names that the kind accepts. needs_path: whether it reads files; else no path is given.
    """

    module: str
    opener: str
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
    if kind == "tagworld" and "count" not in given:
        raise UsageError("TagWorld has no end; say with --count how many samples to make.")
    if path is not None:
        from tagmoe.data.sources.places import snapshot_of

        path = snapshot_of(path)
    opener = getattr(import_module(f"tagmoe.data.sources.{found.module}"), found.opener)
    return opener(path, **given) if found.needs_path else opener(**given)


KINDS: dict[str, Kind] = {
    # Files of any data set, a folder of save_to_disk among them; and samples of TagWorld, which are made here.
    "jsonl": Kind("jsonl", "JsonlSource", ("name", "licence", "root", "map", "constants")),
    "parquet": Kind("parquet", "ParquetSource", ("name", "licence", "root", "map", "constants")),
    "webdataset": Kind("webdataset", "WebdatasetSource", ("name", "licence", "map", "constants")),
    "pairs": Kind("pairs", "PairsSource", ("name", "licence", "instruction")),
    "tagworld": Kind("tagworld", "TagWorldSource", ("count", "seed", "tasks"), needs_path=False),
    # Published data sets, in the files of their authors or of the hub.
    "instruct-pix2pix": Kind("instruct_pix2pix", "open_instruct_pix2pix"),
    "ultraedit": Kind("ultraedit", "UltraEdit"),
    "omniedit": Kind("omniedit", "OmniEdit", ("dev",)),
    "viton-hd": Kind("viton_hd", "VitonHD", ("layout",)),
    "subjects200k": Kind("subjects200k", "Subjects200K", ("image_size", "padding", "min_quality")),
    "magicbrush": Kind("magicbrush", "MagicBrush", ("dev", "crop_bottom")),
    "pico-banana": Kind("published_json", "PicoBanana", ("root",)),
    "sharegpt-4o-image": Kind("published_json", "ShareGpt4oImage", ("root",)),
    "opengpt-4o-image": Kind("published_json", "OpenGpt4oImage", ("root",)),
    "seed-data-edit": Kind("published_json", "SeedDataEdit", ("root",)),
    "gpt-image-edit": Kind("published_json", "GptImageEdit", ("root",)),
    "nhr-edit": Kind("published_json", "NhrEdit", ("root",)),
    "imgedit": Kind("published_sets", "ImgEdit", ("root",)),
    "scaleedit": Kind("published_sets", "ScaleEdit"),
    "x2edit": Kind("published_sets", "X2Edit"),
}
