"""ICE-Bench (arXiv 2503.14482, ICCV 2025): 31 tasks of making and editing pictures; the paper's Tables 1 and 4.

Three layouts are in use and all are read: `dataset/data.jsonl` (the README), `data/data.jsonl` (its evaluator), and the
zips that hold either, in the folder that was downloaded or by themselves. Paths of pictures start at the root, or at
the folder of data.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tagmoe.errors import DataError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_files import Files, FolderFiles, inside, open_files
from tagmoe.evaluate.benchmarks.published_tables import identifier
from tagmoe.files.json_lines import lines_of
from tagmoe.sentences import reason_of

LIST = "data.jsonl"
ZIPS = ("data.zip", "dataset.zip")
_EDITING = (
    "Color Editing",
    "Face Editing",
    "Style Editing",
    "Texture Editing",
    "Motion Editing",
    "Scene Editing",
    "Subject Addition",
    "Subject Change",
    "Subject Removal",
    "Text Removal",
    "Text Render",
    "Composite Editing",
    "Inpainting",
    "Outpainting",
    "Local Subject Addition",
    "Local Subject Removal",
    "Local Text Render",
    "Local Text Removal",
    "Virtual Try On",
    "Face Swap",
    "Subject-guided Inpainting",
    "Style Reference Editing",
)
_CREATING = (
    "Text2Image",
    "Face Reference Generation",
    "Subject Reference Generation",
    "Style Reference Generation",
)
CONTROLS = {
    "Pose-guided Generation": "pose",
    "Depth-guided Generation": "depth",
    "Edge-guided Generation": "edge",
    "Image Deblur": "blur",
    "Image Colorize": "colour",
}
"""Tasks whose source is a control picture, and what it shows."""
REFERENCES = {
    "Face Reference Generation": "face",
    "Face Swap": "face",
    "Subject Reference Generation": "subject",
    "Virtual Try On": "subject",
    "Subject-guided Inpainting": "subject",
    "Style Reference Generation": "style",
    "Style Reference Editing": "style",
}
"""Tasks with a reference, and which of its evaluators looks at it."""
TASKS = (*_CREATING, *_EDITING, *CONTROLS)
PAPER_TASKS = frozenset((*_CREATING, *_EDITING))
"""The 26 tasks of the paper's Fig. 4, inferred: all but the controllable ones."""
FIELDS = ("ItemID", "Task", "SourceImage", "SourceMask", "ReferenceImages", "Instruction", "TargetCaption")


class IceBench:
    """ICE-Bench from the files of its data set."""

    name = "ice-bench"
    about = "ICE-Bench: 31 tasks, 6,538 cases; the paper's Tables 1 and 4 and Fig. 4"
    licence = "not stated by its authors (the code is MIT): ask them before you publish its pictures"

    def __init__(self, path: Path) -> None:
        """Raises UsageError where there is nothing, DataError where no data.jsonl or more than one is found."""
        self._name = path.resolve().name
        self._files, self._list = _find(path)

    def rows(self) -> Iterator[Row]:
        """A row for each line of data.jsonl; blank lines are none."""
        text = self._files.read(self._list) or b""
        try:
            lines = lines_of(text.decode("utf-8-sig"))
        except UnicodeError as error:
            raise DataError(f"{self._list!r} in {self._name!r} cannot be read ({reason_of(error)}).") from None
        for line in lines:
            if line.strip():
                fields = _object(line)
                yield Row(identifier(fields.get("ItemID")), fields)

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case of a row. `TargetCaption` is for metrics and is never fed to an editor."""
        fields = row.fields
        missing = [name for name in FIELDS if name not in fields]
        if missing:
            raise UnusableCase(f"it has no {missing[0]}")
        references = fields["ReferenceImages"]
        texts = ("Task", "SourceImage", "SourceMask", "Instruction", "TargetCaption")
        wrong = [name for name in texts if not isinstance(fields[name], str)]
        if wrong or not (isinstance(references, list) and all(isinstance(one, str) for one in references)):
            raise UnusableCase(f"its {wrong[0] if wrong else 'ReferenceImages'} is of another type")
        task = fields["Task"]
        if task not in TASKS:
            raise UnusableCase(f"its task {task!r} is unknown")
        return Case(
            bench=self.name,
            id=row.id,
            task=task,
            instruction=fields["Instruction"],
            target_caption=fields["TargetCaption"] or None,
            caption_origin="dataset" if fields["TargetCaption"] else None,
            source=self._picture(fields["SourceImage"], "SourceImage", pictures),
            mask=self._picture(fields["SourceMask"], "SourceMask", pictures),
            refs=tuple(self._reference(name, pictures) for name in references),
            meta={
                "in_paper": task in PAPER_TASKS,
                **({"control": CONTROLS[task]} if task in CONTROLS else {}),
                **({"reference": REFERENCES[task]} if task in REFERENCES else {}),
            },
        )

    def settings(self) -> Mapping[str, Any]:
        """Which layout was found."""
        return {"list": self._list}

    def made_from(self) -> str:
        """The name of the folder or zip."""
        return self._name

    def _picture(self, name: str, role: str, pictures: Pictures) -> str | None:
        """A picture that may be left out: then its path is empty."""
        if not name:
            return None
        path = inside(name)
        beside = PurePosixPath(self._list).parent
        places = [] if path is None else list(dict.fromkeys([path, (beside / path).as_posix()]))
        # Where the list lies at the root itself, paths may still begin with the name of its folder.
        if path is not None and beside == PurePosixPath(".") and "/" in path:
            places.append(path.split("/", 1)[1])
        for place in places:
            try:
                data = self._files.read(place)
            except DataError as error:
                raise UnusableCase(f"{role}: {error}") from None
            if data is not None:
                return pictures.add(data, role)
        raise UnusableCase(f"{role}: there is no file {name!r}")

    def _reference(self, name: str, pictures: Pictures) -> str:
        found = self._picture(name, "ReferenceImages", pictures)
        if found is None:
            raise UnusableCase("ReferenceImages: the path is empty")
        return found


def _find(path: Path) -> tuple[Files, str]:
    """The files, and the path of data.jsonl among them; in a folder without one, those of a zip in it."""
    files = open_files(path)
    lists = [name for name in files.names() if PurePosixPath(name).name == LIST and not name.startswith("__MACOSX/")]
    if not lists and isinstance(files, FolderFiles):
        zips = [path / name for name in ZIPS if (path / name).is_file()]
        if len(zips) > 1:
            raise DataError(f"{str(path)!r} holds {ZIPS[0]} and {ZIPS[1]}; give one of them with --from.")
        if zips:
            return _find(zips[0])
    if len(lists) != 1:
        found = " and ".join(map(repr, lists[:2])) if lists else "none"
        raise DataError(f"{str(path)!r} should hold one {LIST} of ICE-Bench, and holds {found}.")
    return files, lists[0]


def _object(line: str) -> dict[str, Any]:
    """The JSON object of a line; empty for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
