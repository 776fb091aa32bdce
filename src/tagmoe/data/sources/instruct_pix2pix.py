"""InstructPix2Pix (arXiv 2211.09800): pairs by Prompt-to-Prompt, filtered by CLIP. Its authors state no licence.

Two layouts are read, told by what is in the folder:
- `timbrooks/instructpix2pix-clip-filtered` on the hub: Parquet, 313,010 rows in 262 files;
- the authors' own download: seeds.json lists folders and the seeds in each; a folder has prompt.json (input, edit,
  output), SEED_0.jpg, SEED_1.jpg and metadata.jsonl (CLIP scores, one line a seed). The authors train on the first
  90 % of the list; all of it is read here, and the split is by root picture as everywhere.

There is no task column. The rows of the hub have no id: theirs comes from the content.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tagmoe.data.sources.files import marks, picture_of_file, reading
from tagmoe.data.sources.parquet_rows import Column, ParquetRow
from tagmoe.data.sources.published_parquet import PublishedParquet, caption, picture_in, scores
from tagmoe.data.sources.skipped import instruction, row
from tagmoe.data.sources.source import Licence, Row, Source
from tagmoe.data.store.fields import UnusableRow, content_key
from tagmoe.data.store.record import Record, record_id
from tagmoe.files.json_lines import lines_of

LICENCE = Licence("none")
NAME = "instruct-pix2pix"
SEEDS = "seeds.json"
SCORES = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")


def open_instruct_pix2pix(path: Path) -> Source:
    """The source of the layout that the folder has. Raises DataError if it has neither."""
    return InstructPix2PixFolder(path) if (path / SEEDS).exists() else InstructPix2Pix(path)


class InstructPix2Pix(PublishedParquet):
    """The layout of the hub."""

    name = NAME
    licence = LICENCE
    columns = (
        Column("original_image", "picture"),
        Column("edited_image", "picture"),
        Column("edit_prompt", "text"),
        Column("original_prompt", "text"),
        Column("edited_prompt", "text"),
    )

    def record(self, found: ParquetRow, place: int) -> Record:
        values = found.values
        text = instruction(values["edit_prompt"])
        source = picture_in(values["original_image"])
        target = picture_in(values["edited_image"])
        return Record(
            id=record_id(NAME, content_key((source,), target, text)),
            dataset=NAME,
            images=(source,),
            target=target,
            instruction=text,
            caption_source=caption(values["original_prompt"]),
            caption_target=caption(values["edited_prompt"]),
            licence=self.licence.name,
            origin=found.origin,
        )


class InstructPix2PixFolder:
    """The authors' own layout. A row is one seed of one folder, in the order of seeds.json."""

    name = NAME
    licence = LICENCE

    def __init__(self, path: Path) -> None:
        """Raises DataError when seeds.json is damaged."""
        self._path = path
        self._folders = _read_seeds(path / SEEDS)
        self._ends = list(itertools.accumulate(len(seeds) for _, seeds in self._folders))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def identity(self) -> Mapping[str, Any]:
        return {"source": NAME, "path": str(self._path.resolve())}

    def fingerprint(self) -> Mapping[str, Any]:
        return {"source": NAME, "rows": len(self), "lists": marks([self._path / SEEDS])}

    def rows(self, start: int = 0) -> Iterator[Row]:
        for index in range(bisect.bisect_right(self._ends, start), len(self._folders)):
            folder, seeds = self._folders[index]
            first = self._ends[index] - len(seeds)
            prompt = _read_prompt(self._path / folder)
            metadata = _read_metadata(self._path / folder)
            for number in range(max(start, first), self._ends[index]):
                seed = seeds[number - first]
                make = partial(self._record, folder, seed, prompt, metadata)
                pictures = [self._path / folder / f"{seed}_{side}.jpg" for side in (0, 1)]
                listed = [self._path / folder / name for name in ("prompt.json", "metadata.jsonl")]
                yield row(number + 1, make, origin=f"{folder}/{seed}", files=[*listed, *pictures])

    def _record(self, folder: str, seed: str, prompt: Mapping[str, Any] | None, metadata: Mapping[str, Any]) -> Record:
        if prompt is None:
            raise UnusableRow("missing folder or prompt file")
        source, target = (picture_of_file(self._path / folder / f"{seed}_{side}.jpg") for side in (0, 1))
        return Record(
            id=record_id(NAME, f"{folder}/{seed}"),
            dataset=NAME,
            images=(source,),
            target=target,
            instruction=instruction(prompt.get("edit")),
            caption_source=caption(prompt.get("input")),
            caption_target=caption(prompt.get("output")),
            quality=scores(metadata.get(seed, {}), SCORES),
            licence=self.licence.name,
            origin=f"{folder}/{seed}",
        )


def _read_seeds(file: Path) -> list[tuple[str, list[str]]]:
    with reading(file, "is no list of [folder, [seed, ...]] ({}); copy or download it again"):
        listed = json.loads(file.read_text(encoding="utf-8"))
        folders = [(name, [str(seed) for seed in seeds]) for name, seeds in listed]
        # A file from elsewhere must not name paths outside the folder.
        if any(not isinstance(name, str) or Path(name).name != name or name == ".." for name, _ in folders):
            raise ValueError("a folder is no plain name")
        if any(not seed.isalnum() for _, seeds in folders for seed in seeds):
            raise ValueError("a seed is no plain number")
    return folders


def _read_prompt(folder: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((folder / "prompt.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """The scores of each seed. Damaged lines are ignored: scores are not trained on."""
    found = {}
    try:
        lines = lines_of((folder / "metadata.jsonl").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "seed" in value:
            found[str(value["seed"])] = value
    return found
