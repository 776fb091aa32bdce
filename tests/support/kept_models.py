"""Models of the command line, read once: to load a folder takes longer than to draw a tiny picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

LOADED: dict[Any, Any] = {}


@contextmanager
def models_kept() -> Iterator[None]:
    """Inside it a folder is loaded once, as long as no file of it changes; each command gets its own copy."""
    from tagmoe.pipeline.memory import placing

    load = placing.load_pipeline

    def copied(folder: Path, plan: Any, device: Any, **options: Any) -> Any:
        if plan.is_quantised or plan.offload != "none" or options:
            return load(folder, plan, device, **options)
        files = [(path, path.stat()) for path in sorted(Path(folder).rglob("*"))]
        key = (device, *((path, found.st_size, found.st_mtime_ns) for path, found in files))
        if key not in LOADED:
            LOADED[key] = load(folder, plan, device)
        return deepcopy(LOADED[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "load_pipeline", copied)
        yield
