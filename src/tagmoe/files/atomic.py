"""Atomic writes: a file or folder is written beside its place and then renamed, so it is never there in part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a file, a text as UTF-8, beside its place, then move it there: whole or not at all. Raises OSError.

    content: also as parts, which are written one by one.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
        with unfinished.open("wb") as file:
            file.writelines(parts)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def put_in_place(partial: Path, target: Path) -> None:
    """Rename a finished folder to `target`, replacing a folder there; if that fails, the old one is restored."""
    if not target.exists():
        os.replace(partial, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        os.replace(target, old / "replaced")
        try:
            os.replace(partial, target)
        except BaseException:
            os.replace(old / "replaced", target)
            raise
    finally:
        # If the old folder could not be moved back, keep it under this odd name rather than lose a result.
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
