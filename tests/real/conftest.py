"""The folder of trained weights: REAL, or .real of the checkout. Installed packages come before its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.trained_weights import ARCHIVE, FOLDERS, conse_folder, open_real, photographs_of_people, trained_metric

from tagmoe.evaluate.metrics.learned import Learned


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder."""
    folder = Path(os.environ.get("REAL", Path(__file__).parents[2] / ".real"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder.name} of trained weights; tests/real.txt says how to make it")
    return open_real(folder)


@pytest.fixture(scope="session")
def conse(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of text:conse, made as docs/metrics.md says."""
    return conse_folder(real, tmp_path_factory.mktemp("conse"))


@pytest.fixture(scope="session")
def made(real: Path) -> Callable[[str], Learned]:
    """A metric by name, on its package's folder; the test is skipped where that is not there."""

    def make(name: str, folder: Path | None = None) -> Learned:
        folder = folder or real / FOLDERS[name]
        if not folder.is_dir():
            pytest.skip(f"{folder.relative_to(real)} is not in {real.name}; tests/real.txt says how to get it")
        return trained_metric(name, folder)

    return make


@pytest.fixture(scope="session")
def people(real: Path) -> dict[str, Image.Image]:
    """Photographs of two people, by file name."""
    found = photographs_of_people(real)
    if not found:
        pytest.skip(f"the archive {ARCHIVE} is not in the folder of trained weights; see tests/real.txt")
    return found
