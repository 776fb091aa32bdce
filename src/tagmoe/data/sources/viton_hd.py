"""VITON-HD (CVPR 2021): a person and the garment that the person wears, for virtual try-on. Research purposes only.

Its own download, 1024x768: train_pairs.txt with a line "person garment" for each pair (the same name twice, as a
person is paired with the garment worn), and below train/ the folders image, cloth and agnostic-mask (NAME_mask.png,
white over the garment worn, as IDM-VTON publishes it). The person is given without the garment: grey under the mask.
vitonhd_train_tagged.json, where it is there, gives a second wording with the kind of garment.

test_pairs.txt pairs persons with other garments, so that no picture shows the result, and is a benchmark: each of its
lines is skipped with this reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from tagmoe.data.sources.files import marks, picture_of_file, reading
from tagmoe.data.sources.option_values import one_of
from tagmoe.data.sources.pixels import decoded, encoded_like
from tagmoe.data.sources.skipped import OTHER_SIZE, row
from tagmoe.data.sources.source import Licence, Row
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.record import Picture, Record, Role, record_id
from tagmoe.errors import DataError
from tagmoe.files.json_lines import lines_of

NAME = "viton-hd"
LAYOUTS = ("references", "canvas")
TRAIN, TEST = "train_pairs.txt", "test_pairs.txt"
FOLDERS = ("image", "cloth", "agnostic-mask")
TAGGED = "vitonhd_train_tagged.json"
TAGS = ("sleeveLength", "neckLine", "item")
GREY = (128, 128, 128)
INSTRUCTIONS = {
    "references": "Dress the person of the first picture in the garment of the second picture.",
    "canvas": "Dress the person on the left in the garment on the right.",
}


class VitonHD:
    """Two references (person, garment), or one canvas with the person on the left and the garment on the right."""

    name = NAME
    licence = Licence("CC-BY-NC-4.0", commercial=False)

    def __init__(self, path: Path, *, layout: Any = "references") -> None:
        """Raises DataError when the list of training pairs or a folder is missing."""
        self._layout = one_of("layout", layout, LAYOUTS)
        self._path = path
        missing = [name for name in (TRAIN, *(f"train/{name}" for name in FOLDERS)) if not (path / name).exists()]
        if missing:
            raise DataError(
                f"{str(path)!r} has no {missing[0]}; give the folder with {TRAIN} and train/ with "
                f"{', '.join(FOLDERS)} (its test pairs have no target and are not imported)."
            )
        self._lines = [(TRAIN, line) for line in _lines(path / TRAIN)]
        if (path / TEST).exists():
            self._lines += [(TEST, line) for line in _lines(path / TEST)]
        self._garments = _garment_names(path / "train" / TAGGED)

    def __len__(self) -> int:
        return len(self._lines)

    def identity(self) -> Mapping[str, Any]:
        return {"source": NAME, "path": str(self._path.resolve()), "options": {"layout": self._layout}}

    def fingerprint(self) -> Mapping[str, Any]:
        lists = [self._path / name for name in (TRAIN, TEST, f"train/{TAGGED}")]
        found = marks([file for file in lists if file.exists()])
        return {"source": NAME, "rows": len(self), "lists": found, "options": {"layout": self._layout}}

    def rows(self, start: int = 0) -> Iterator[Row]:
        for number in range(start, len(self)):
            file, line = self._lines[number]
            make = partial(self._record, file, line)
            files = [] if file == TEST else self._files(line)
            yield row(number + 1, make, origin=f"{file}:{line.split(maxsplit=1)[0]}", files=files, key=line.encode())

    def _files(self, line: str) -> list[Path]:
        """The pictures of a pair and the list of names, where the line names one."""
        name = Path(line.split()[0]).name
        train = self._path / "train"
        worn = train / "agnostic-mask" / f"{Path(name).stem}_mask.png"
        return [train / "image" / name, train / "cloth" / name, worn, train / TAGGED]

    def _record(self, file: str, line: str) -> Record:
        if file == TEST:
            raise UnusableRow("test list, unpaired and without target")
        names = line.split()
        if len(names) != 2 or any(Path(name).name != name for name in names):
            raise UnusableRow("damaged line")
        if names[0] != names[1]:
            raise UnusableRow("unpaired garment, no target")
        name = names[0]
        train = self._path / "train"
        target = picture_of_file(train / "image" / name)
        garment = _picture(train / "cloth" / name, "garment", "missing garment")
        mask = _picture(train / "agnostic-mask" / f"{Path(name).stem}_mask.png", "mask", "missing mask")
        text, kind = INSTRUCTIONS[self._layout], self._garments.get(name)
        return Record(
            id=record_id(NAME, name, self._layout),
            dataset=NAME,
            images=self._images(target, garment, mask),
            target=target,
            instruction=text,
            instructions=() if kind is None else (f"{text[:-1]}: {kind}.",),
            licence=self.licence.name,
            origin=f"{file}:{name}",
            root=target.digest,
        )

    def _images(self, target: Picture, garment: Picture, mask: Picture) -> tuple[Picture, ...]:
        worn = decoded(mask)
        person = decoded(target)
        if worn.size != person.size:
            raise UnusableRow(OTHER_SIZE)
        person.paste(GREY, mask=worn)
        if self._layout == "references":
            return encoded_like(person, target, "person"), garment
        right = decoded(garment)
        if right.height != person.height:
            raise UnusableRow(OTHER_SIZE)
        canvas = Image.new("RGB", (person.width + right.width, person.height))
        canvas.paste(person, (0, 0))
        canvas.paste(right, (person.width, 0))
        # The canvas is a reference: as a source, its pixels would have to lie where those of the target do.
        return (encoded_like(canvas, target, "reference"),)


def _picture(file: Path, role: Role, missing: str) -> Picture:
    if not file.exists():
        raise UnusableRow(missing)
    return picture_of_file(file, role)


def _lines(file: Path) -> list[str]:
    with reading(file, "cannot be read ({})"):
        return [line for line in lines_of(file.read_text(encoding="utf-8")) if line.strip()]


def _garment_names(file: Path) -> dict[str, str]:
    """The kind of each garment in words, joined from its tags as IDM-VTON does; empty without the file."""
    if not file.exists():
        return {}
    found = {}
    with reading(file, "is damaged ({}); download it again or remove it"):
        for garment in chain.from_iterable(json.loads(file.read_text(encoding="utf-8")).values()):
            given = {tag["tag_name"]: tag["tag_category"] for tag in garment["tag_info"]}
            words = [given[tag] for tag in TAGS if given.get(tag)]
            if words:
                found[garment["file_name"]] = " ".join(words)
    return found
