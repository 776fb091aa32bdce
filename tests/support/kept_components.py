"""Components of a folder, read once for all runs: to read them takes longer than a tiny training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tagmoe.pipeline.pipeline import TagMoEPipeline

KEPT: dict[Any, TagMoEPipeline] = {}


def read_once(folder: Path, **options: Any) -> TagMoEPipeline:
    """The pipeline of a folder, a copy for each caller; read again when a file of it has changed.

    Copies of a folder, whose files keep their times, are one folder.
    """
    files = [(path.relative_to(folder), path.stat()) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    key = (str(options), *((path, found.st_size, found.st_mtime_ns) for path, found in files))
    if key not in KEPT:
        KEPT[key] = TagMoEPipeline.from_pretrained(folder, **options)
    return deepcopy(KEPT[key])


@contextmanager
def components_kept() -> Iterator[None]:
    """Inside it `read_components` reads a folder once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tagmoe.train.components_folder.TagMoEPipeline", SimpleNamespace(from_pretrained=read_once))
        yield
