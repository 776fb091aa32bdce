"""A folder of ready outputs: pictures that another programme made, found by the ids of the cases."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tagmoe.errors import UsageError
from tagmoe.evaluate.answers.answer import NoPicture, Output, ReadyFile
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.files.json_files import names_once
from tagmoe.sentences import reason_of

TABLE = "gen_info.json"
"""ICE-Bench's table of outputs: {id: path of the picture}."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


class ReadyFolder:
    """Outputs by the table `gen_info.json` in the folder, else by the names of the files: ID.png, anywhere in it.

    Raises UsageError for a folder that is not there or holds no picture, and for a table that cannot be read.
    """

    gives_black = False

    def __init__(self, folder: Path, name: str | None = None) -> None:
        if not folder.is_dir():
            raise UsageError(f"There is no folder of outputs {str(folder)!r}; check the path.")
        self._folder = folder
        self._name = folder.resolve().name if name is None else name
        self._files = _by_table(folder) if (folder / TABLE).is_file() else _by_name(folder)
        if not self._files:
            raise UsageError(f"The folder {str(folder)!r} holds no picture ({', '.join(ENDINGS)}) and no {TABLE}.")
        self._digest = _digest(self._files)

    def facts(self) -> Mapping[str, Any]:
        """Its name, and a digest of all its pictures."""
        return {"kind": "ready outputs", "name": self._name, "digest": self._digest}

    def pictures_of(self, case: Case) -> int:
        """None: it is not asked with pictures."""
        return 0

    def __call__(self, cases: Sequence[tuple[int, Case]], seeds: Sequence[int]) -> Sequence[Output]:
        """The file of each case; seeds do not matter."""
        return [self._output(case) for _, case in cases]

    def _output(self, case: Case) -> Output:
        found = self._files.get(case.id, [])
        if not found:
            return NoPicture("missing", "there is no file of this id")
        if len(found) > 1:
            names = " and ".join(repr(path.relative_to(self._folder).as_posix()) for path in found[:2])
            return NoPicture("missing", f"{names} both have this id")
        try:
            return ReadyFile(found[0].read_bytes())
        except OSError as error:
            return NoPicture("missing", f"the file cannot be read ({reason_of(error)})")


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Files by their path without its ending, and by their name alone."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS and path.name[0] != "." and path.is_file():
            whole = path.relative_to(folder).with_suffix("").as_posix()
            for name in {whole, path.stem}:
                found[name].append(path)
    return dict(found)


def _by_table(folder: Path) -> dict[str, list[Path]]:
    file = folder / TABLE
    try:
        table = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=names_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"The table {str(file)!r} cannot be read ({reason_of(error)}).") from None
    if not isinstance(table, dict) or not all(isinstance(path, str) for path in table.values()):
        raise UsageError(f"The table {str(file)!r} is no object of ids and paths of pictures.")
    # Paths of another machine: what stands beside the table under the same name is meant.
    beside = {path.name: path for path in sorted(folder.rglob("*")) if path.is_file()}
    found: dict[str, list[Path]] = {}
    for name, path in table.items():
        given = folder / path
        # Of a path that no file can have, `Path.is_file` and `Path.resolve` raise.
        inside = os.path.isfile(given) and given.resolve().is_relative_to(folder.resolve())
        meant = given if inside else beside.get(Path(path).name)
        found[name] = [] if meant is None else [meant]
    return found


def _digest(files: Mapping[str, Sequence[Path]]) -> str:
    """Of ids and bytes, in the order of the ids; each file is read once."""
    read: dict[Path, str] = {}
    total = hashlib.sha256()
    for name in sorted(files):
        for path in files[name]:
            if path not in read:
                with path.open("rb") as file:
                    read[path] = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name}\0{read[path]}\n".encode(errors="surrogatepass"))
    return total.hexdigest()
