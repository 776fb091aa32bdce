"""Any benchmark or folder of one's own, by a description: a YAML file that says which column is which field.

    name: my-set
    licence: CC0-1.0
    rows: cases.csv
    fields:
      id: "{name}"
      instruction: prompt
      source: "pictures/{name}.png"

`rows` are files below the folder that --from names, by a pattern such as `*/annotation.json`: JSON, JSON lines, CSV,
Parquet or Arrow. A field is a column, a path of keys and numbers in one (`data.0.image`), or a text with columns in
braces. {folder}, {above}, {file} and {row} are the name of a row's folder, that of the folder above it, the name of its
file without ending, and its number. Paths of pictures start at the file of the rows or at the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_files import inside
from tagmoe.evaluate.benchmarks.published_tables import Table, TableRow, text
from tagmoe.files.yaml_text import read_yaml
from tagmoe.sentences import reason_of

ENDINGS = (".yaml", ".yml")
OF_FILES = ("folder", "above", "file", "row")
"""What a text may name beside columns."""
_BRACES = re.compile(r"\{([^{}]+)\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Fields(Part):
    """What each field of a case is read from. images: a column of one picture or of a list, of which the first is the
    source and the others are references. refs: a column of a list, or several columns. meta: columns to keep."""

    id: str
    instruction: str
    task: str | None = None
    lang: str | None = None
    images: str | None = None
    source: str | None = None
    mask: str | None = None
    refs: str | tuple[str, ...] = ()
    target: str | None = None
    target_caption: str | None = None
    split: str | None = None
    meta: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.images is not None and (self.source is not None or self.refs):
            raise ValueError("images are the source and the references; leave these out")
        return self


class Description(Part):
    """A described benchmark. reads: what the folder is, for the list. rows: pattern of the files of rows, where * is
    within a folder and ** any. constants: fields that are the same in all rows."""

    name: str
    about: str = ""
    licence: str
    reads: str = "the folder that its rows lie in"
    rows: str
    fields: Fields
    constants: dict[str, str] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("small letters, digits, dots and dashes make a name")
        return value

    @field_validator("rows")
    @classmethod
    def _within(cls, value: str) -> str:
        if inside(value) is None:
            raise ValueError("the pattern leads out of the folder")
        return value

    @field_validator("constants")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = sorted(set(value) - {"task", "lang", "split"})
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be constant; task, lang and split can")
        return value


class Described:
    """The cases of the rows below a folder, by a description."""

    def __init__(self, description: Description, path: Path) -> None:
        """Raises UsageError where there is no folder, DataError where no file matches."""
        self.name, self.licence = description.name, description.licence
        self.about = description.about or description.name
        self._description, self._path = description, path
        self._empty: list[str] = []
        if not path.is_dir():
            raise UsageError(f"There is no folder {str(path)!r}; give the one that the rows of {self.name} lie in.")
        pattern = description.rows
        found = sorted(file for file in path.glob(pattern) if file.is_file())
        if not found:
            raise DataError(f"No file in {str(path)!r} matches {pattern!r}, which the description calls its rows.")
        # A path of keys begins with a column; a column may also have dots in its own name.
        columns = [*self._columns, *(column.split(".")[0] for column in self._columns)]
        self._table = Table(path, (), tuple(dict.fromkeys(columns)), files=found)

    def rows(self) -> Iterator[Row]:
        """All rows of all files. Raises DataError at the end for a column that no row has: it is misspelt.

        Of `meta` such columns are allowed, because sets lack some of them, and are named in the settings.
        """
        unseen = set(self._columns)
        for row in self._table.rows():
            try:
                unseen -= {column for column in unseen if _value(row, column) is not None}
                yield Row(str(self._filled(row, "id") or ""), {"row": row})
            except UnusableCase as error:
                yield Row(f"{row.file.name}:{row.number}", {"error": str(error)})
        self._empty = sorted(unseen & set(self._description.fields.meta))
        wrong = unseen - set(self._empty)
        if wrong:
            raise DataError(
                f"No row of {self.name} has a value in the column {min(wrong)!r}; correct the fields of its "
                "description."
            )

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case of a row; a picture that its row does not name is none."""
        if "error" in row.fields:
            raise UnusableCase(row.fields["error"])
        found: TableRow = row.fields["row"]
        fields = self._description.fields
        instruction = self._filled(found, "instruction")
        caption = self._filled(found, "target_caption")
        meta = {column: _value(found, column) for column in fields.meta}
        source, references = self._inputs(found, pictures)
        return Case(
            bench=self.name,
            id=row.id,
            task=self._word(found, "task") or "edit",
            lang=self._word(found, "lang") or "en",
            instruction=text({"instruction": instruction}, "instruction"),
            target_caption=text({"target_caption": caption}, "target_caption", optional=True) or None,
            caption_origin="dataset" if caption else None,
            source=source,
            mask=self._picture(found, "mask", pictures),
            refs=references,
            target=self._picture(found, "target", pictures),
            split=self._word(found, "split") or None,
            meta={name: value for name, value in meta.items() if value is not None},
        )

    def settings(self) -> Mapping[str, Any]:
        """The description, and columns of `meta` that no row had."""
        found = self._description.model_dump(exclude_defaults=True, exclude={"name", "about", "licence", "reads"})
        return {**found, **({"without_values": self._empty} if self._empty else {})}

    def made_from(self) -> str:
        """The name of the folder."""
        return self._path.resolve().name

    @cached_property
    def _columns(self) -> list[str]:
        """The columns that the description names."""
        found: list[str] = []
        for value in self._description.fields.model_dump().values():
            for one in [value] if isinstance(value, str) else value or ():
                found += _BRACES.findall(one) if "{" in one else [one]
        return [column for column in dict.fromkeys(found) if column not in OF_FILES]

    def _filled(self, row: TableRow, field: str) -> Any:
        spelled = getattr(self._description.fields, field)
        return None if spelled is None else _filled(row, spelled)

    def _word(self, row: TableRow, field: str) -> str:
        """A text of a row, or the constant."""
        value = self._filled(row, field)
        return self._description.constants.get(field, "") if value is None else str(value)

    def _picture(self, row: TableRow, field: str, pictures: Pictures) -> str | None:
        value = self._filled(row, field)
        if value in (None, "", b""):
            return None
        return self._table.picture(value, field, pictures, beside=row.file.parent)

    def _inputs(self, row: TableRow, pictures: Pictures) -> tuple[str | None, tuple[str, ...]]:
        """The source and the references."""
        fields = self._description.fields
        if fields.images is not None:
            found = self._listed(row, "images", (fields.images,), pictures)
            return (found[0] if found else None), found[1:]
        spelled = (fields.refs,) if isinstance(fields.refs, str) else fields.refs
        return self._picture(row, "source", pictures), self._listed(row, "refs", spelled, pictures)

    def _listed(self, row: TableRow, field: str, spelled: tuple[str, ...], pictures: Pictures) -> tuple[str, ...]:
        """The pictures of columns that hold one or a list each."""
        values: list[Any] = []
        for one in spelled:
            value = _filled(row, one)
            values += value if isinstance(value, list) else [value]
        given = [value for value in values if value not in (None, "", b"")]
        return tuple(self._table.picture(one, field, pictures, beside=row.file.parent) for one in given)


def packaged_descriptions() -> dict[str, Description]:
    """The descriptions that come with tagmoe, by name."""
    folder = files("tagmoe.evaluate.benchmarks").joinpath("descriptions")
    found = [_description(one.read_text(encoding="utf-8"), one.name) for one in folder.iterdir()]
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def read_description(file: Path) -> Description:
    """The description in a file. Raises UsageError for one that is not there or not of this form."""
    try:
        return _description(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The description {str(file)!r} cannot be read ({reason_of(error)}).") from None


def _description(text: str, title: str) -> Description:
    try:
        return Description.model_validate(read_yaml(text, title))
    except ValidationError as error:
        raise UsageError(f"The description {title!r} cannot be used: {wrong_field(error, Description)}.") from None


def _filled(row: TableRow, spelled: str) -> Any:
    """The value of a column, or a text with its columns filled in; None where one of them is missing."""
    if "{" not in spelled:
        return _value(row, spelled)
    values = {name: _value(row, name) for name in _BRACES.findall(spelled)}
    if any(value is None for value in values.values()):
        return None
    return _BRACES.sub(lambda found: str(values[found[1]]), spelled)


def _value(row: TableRow, column: str) -> Any:
    from tagmoe.data.sources.field_map import value_at

    if column in OF_FILES and column not in row.values:
        folder = row.file.parent
        return {"folder": folder.name, "above": folder.parent.name, "file": row.file.stem, "row": row.number}[column]
    value = value_at(row.values, column)
    return None if value == "" else value
