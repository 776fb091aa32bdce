"""The figures beside the weights: they come back as written, and are never shown for other weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tagmoe.errors import CheckpointError
from tagmoe.routing.tags_right import FILE, TagsRight, checksum


def figures(folder: Path) -> TagsRight:
    return TagsRight(200, 0.1, 0.05, 0.2, 0.6, 0.09, 0.61, 500, 12, 3, "a command", checksum(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "alignment.safetensors").write_bytes(b"weights")
    return tmp_path


def test_figures_come_back_as_written(folder: Path) -> None:
    assert TagsRight.load(folder) is None
    assert figures(folder).save(folder) == folder / FILE
    assert TagsRight.load(folder) == figures(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["alignment.safetensors", FILE]


def test_other_weights_have_no_figures(folder: Path) -> None:
    figures(folder).save(folder)
    (folder / "alignment.safetensors").write_bytes(b"trained anew")
    assert TagsRight.load(folder) is None


@pytest.mark.parametrize(
    "change", [{"exact": None}, {"cases": 2.5}, {"seed": True}, {"f1": "0.6"}, {"exact": float("nan")}, {"more": 1}]
)
def test_damaged_figures_are_refused(folder: Path, change: dict[str, object]) -> None:
    (folder / FILE).write_text(json.dumps(asdict(figures(folder)) | change))
    with pytest.raises(CheckpointError, match=FILE):
        TagsRight.load(folder)
    (folder / FILE).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        TagsRight.load(folder)
