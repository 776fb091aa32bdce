"""Which weights a model folder holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")
"""Files that decide what a pipeline draws: weights, configs and tokenizers."""


def digest_of_weights(folder: Path) -> str:
    """SHA-256 over names and bytes of the folder's files; a README or a picture in it does not count."""
    return digest_of_files(
        {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.suffix in SUFFIXES and path.is_file()
        }
    )


def digest_of_files(files: Mapping[str, Path]) -> str:
    """SHA-256 over the names and bytes of these files, in their order."""
    total = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()
