"""ImgEdit-Bench (arXiv 2505.20275): 737 edits of 9 types, or the harder suite of understanding, grounding and editing.

By its scripts (PKU-YuanGroup/ImgEdit 547185d and c14480a, read 2026-11-28 and 2026-11-30) a suite is one JSON object,
{key: {id: path of the picture, prompt, edit_type}}, that lies in the code: Benchmark/Basic/basic_edit.json, and
Benchmark/UGE/UGE_edit.json without edit_type. The pictures are on the hub (`sysuyy/ImgEdit`, Benchmark.tar). Put both
into one folder; the tar need not be unpacked. How its folders are called could not be confirmed: a picture is found by
the end of its path, and one that is found twice is listed. Its suite of several turns is judged by hand and left out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from tagmoe.data.sources.option_values import one_of
from tagmoe.errors import DataError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_files import Files, FolderFiles, inside, open_files
from tagmoe.evaluate.benchmarks.published_tables import text
from tagmoe.files.json_files import names_once
from tagmoe.sentences import reason_of

LISTS = {"basic": ("basic_edit.json", "singleturn.json"), "uge": ("UGE_edit.json",)}
"""The file of a suite; the second name is that of an older revision."""
TYPES = ("extract", "style", "add", "adjust", "background", "replace", "remove", "action", "compose")


class ImgEditBench:
    """ImgEdit-Bench. suite: basic, or uge."""

    name = "imgedit-bench"
    about = "ImgEdit-Bench: 737 edits of 9 types (basic), or the suite of understanding, grounding and editing (uge)"
    licence = "not stated by its authors: ask them before you publish its pictures"
    options: ClassVar[Mapping[str, str]] = {"suite": "basic (default), uge"}

    def __init__(self, path: Path, *, suite: str = "basic") -> None:
        """Raises UsageError where there is nothing, DataError where its list or its pictures are not found."""
        self._suite = one_of("suite", suite, tuple(LISTS))
        self._name = path.resolve().name
        files = open_files(path)
        self._files: list[Files] = [files]
        if isinstance(files, FolderFiles):
            self._files += [open_files(path / name) for name in files.names() if name.endswith((".tar", ".zip"))]
        self._list = self._read_list(path)
        self._places = _by_last_name(self._files)

    def rows(self) -> Iterator[Row]:
        """A row for each key of the list."""
        for name, item in self._list.items():
            yield Row(name, item if isinstance(item, dict) else {})

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case of a row."""
        task = self._suite if self._suite == "uge" else text(row.fields, "edit_type")
        if self._suite == "basic" and task not in TYPES:
            raise UnusableCase(f"its edit_type {task!r} is unknown")
        words = text(row.fields, "prompt")
        return Case(
            bench=self.name,
            id=row.id,
            task=task,
            instruction=words,
            source=self._picture(text(row.fields, "id"), pictures),
            split=self._suite,
        )

    def settings(self) -> Mapping[str, Any]:
        """The suite."""
        return {"suite": self._suite}

    def made_from(self) -> str:
        """The name of the folder or tar."""
        return self._name

    def _read_list(self, path: Path) -> dict[str, Any]:
        wanted = LISTS[self._suite]
        # What is unpacked comes before what is in a tar.
        found = [[name for name in files.names() if PurePosixPath(name).name in wanted] for files in self._files]
        files, names = next((one for one in zip(self._files, found, strict=True) if one[1]), (self._files[0], []))
        if len(names) != 1:
            listed = " and ".join(map(repr, names[:2])) or "none"
            raise DataError(
                f"{str(path)!r} should hold one {wanted[0]} of ImgEdit-Bench beside its pictures, and holds {listed}."
            )
        name = names[0]
        try:
            value = json.loads(files.read(name) or b"", object_pairs_hook=names_once)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name!r} in {self._name!r} cannot be read ({reason_of(error)}).") from None
        if not isinstance(value, dict) or not value:
            raise DataError(f"{name!r} in {self._name!r} is no object of keys and edits.")
        return value

    def _picture(self, name: str, pictures: Pictures) -> str:
        """The picture whose path ends with this one."""
        path = inside(name)
        if path is None:
            raise UnusableCase(f"its path {name!r} leads out of the folder")
        at = [
            (files, place)
            for files, place in self._places[PurePosixPath(path).name]
            if place == path or place.endswith(f"/{path}")
        ]
        # As for the list: those of the first that has any.
        at = [one for one in at if one[0] is at[0][0]]
        if len(at) != 1:
            places = " and ".join(repr(place) for _, place in at[:2])
            raise UnusableCase(f"both {places} are its picture" if at else f"there is no picture {name!r}")
        ((files, place),) = at
        try:
            return pictures.add(files.read(place) or b"", "picture")
        except DataError as error:
            raise UnusableCase(f"picture: {error}") from None


def _by_last_name(found: list[Files]) -> dict[str, list[tuple[Files, str]]]:
    """All files by their last name, so that a picture is not looked for in a list of all."""
    places: dict[str, list[tuple[Files, str]]] = defaultdict(list)
    for files in found:
        for name in files.names():
            places[PurePosixPath(name).name].append((files, name))
    return places
