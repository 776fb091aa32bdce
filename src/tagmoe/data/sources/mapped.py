"""What sources with a map of columns share: defaults, identity, the licence of the first row, the step to a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tagmoe.data.sources.field_map import FieldMap
from tagmoe.data.sources.places import Place
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.fields import from_fields
from tagmoe.data.store.record import Record


class MappedSource(ABC):
    """Files whose columns a `FieldMap` names.

    name, licence: defaults for rows that state none. Without `licence`, a user must accept that of the first row. map,
    constants: of `FieldMap`. root: folder or tar file of pictures that are only named.
    """

    kind: str
    has_root = True
    """Whether pictures may lie elsewhere."""

    def __init__(
        self,
        path: Path,
        name: str,
        licence: str | None,
        map: Mapping[str, str] | None,
        constants: Mapping[str, str] | None,
        root: str | Path | None = None,
    ) -> None:
        """Raises UsageError for a wrong map."""
        self.name, self._path = name, path
        self._fields = FieldMap(map, constants)
        self._root = None if root is None else Path(root)
        self._default_licence = licence or self._fields.constants.get("licence") or "none"

    @property
    def unused(self) -> Counter[str]:
        """How often each name was there that is not read, in the rows that were read."""
        return self._fields.unused

    def identity(self) -> Mapping[str, Any]:
        """JSON values for the place and the options."""
        root = None if self._root is None else str(self._root.resolve())
        return {
            "kind": self.kind,
            "path": str(self._path.resolve()),
            "name": self.name,
            "licence": self._default_licence,
            **({"root": root} if self.has_root else {}),
            "map": list(self._fields.given.items()),
            "constants": list(self._fields.constants.items()),
        }

    def _named_licence(self, licence: str | None) -> Licence:
        """The licence to accept: the one given, else that of the constants or of the first row."""
        column = self._fields.given.get("licence", "" if self._fields.given else "licence")
        stated = licence or self._fields.constants.get("licence")
        if stated is None:
            value = self._first_value(column) if column else None
            stated = value if isinstance(value, str) and value else "none"
        return Licence.named(stated)

    @abstractmethod
    def _first_value(self, column: str) -> Any:
        """The value of a column in the first row; None where it has none."""

    def _made(self, values: Mapping[str, Any], place: Place, origin: str) -> Record:
        """The record of a sample whose pictures lie at `place`. Raises UnusableRow."""
        fields, images, target = self._fields.read(values, place)
        return from_fields(fields, images, target, dataset=self.name, licence=self._default_licence, origin=origin)
