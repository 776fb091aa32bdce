"""Rows with any value in any place: each gives a record or a reason, and never an exception."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from support.archives import tarred
from support.edit_files import jsonl_folder
from support.made_layouts import LAYOUTS

from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.registry import open_source
from tagmoe.data.sources.source import Source

ODD: list[Any] = [
    *(None, True, 0, -1, 2**70, 1e308, "", " ", "a", "../../etc/passwd", "/etc/passwd", "x\0y", "\ud800", "a" * 5000),
    *([], [[]], [None], [1], {}, [{}], [{"id": [1]}], [["a", "b"]], {"id": [1]}, {"en": 5}, {"en": None}),
    *({"bytes": None}, {"path": None}, {"bytes": 5}, {"bytes": {"bytes": "x"}}, {"path": "/etc/passwd"}),
    *("data:image/png;base64,!!", "http://x/y.png", ["http://x"], ".", "..", "~", "p/", "A" * 100),
]
EVERY_FIELD = {
    "id": "5",
    "instructions": ["a"],
    "languages": ["en", "zh"],
    "turn": 1,
    "instruction_rewritten": "x",
    "tags": ["global editing"],
    "tag_provenance": {"annotator": "x", "seed": 1},
    "quality": {"a": 1},
    "root": "0" * 64,
    "parent": "0" * 32,
    "operation": "none",
    "input_roles": ["source"],
    "native_task": "t",
}
OTHERS = {"instruction": "instruction", "instructions": "instructions", "source": "input_images"} | {
    "target": "output_image",
    "quality.a": "quality",
    "instruction.zh": "languages",
    "mask": "input_roles",
    "turn": "turn",
}


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def changed(dice: random.Random, row: Any) -> Any:
    """The row with an odd value in one of its places."""
    new, at = json.loads(json.dumps(row)), dice.choice(list(places(row)))
    if not at:
        return dice.choice(ODD)
    inner = new
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = dice.choice(ODD)
    return new


def read(source: Source) -> int:
    """Read all; how many records and reasons there are."""
    return sum(len(row.records) + len(row.skipped) + 0 * len(list(row.files)) for row in source.rows())


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if kind not in ("imgedit", "scaleedit", "x2edit")])
def test_a_row_of_a_published_set(tmp_path, kind):
    LAYOUTS[kind][1](tmp_path)
    dice = random.Random(1)
    for file in sorted(file for file in tmp_path.rglob("*") if file.suffix in (".json", ".jsonl")):
        text = file.read_text()
        is_array = text.startswith("[")
        rows = json.loads(text) if is_array else [json.loads(line) for line in text.splitlines()]
        for _ in range(40):
            row = changed(dice, dice.choice(rows))
            file.write_text(json.dumps([row] if is_array else row))
            assert read(open_source(kind, file)) >= 1
        file.write_text(text)


def test_a_sample_of_a_tar(tmp_path):
    LAYOUTS["x2edit"][1](tmp_path)
    dice = random.Random(1)
    file = next(tmp_path.rglob("*.tar"))
    with tarfile.open(file) as tar:
        members = {item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar}
    for _ in range(40):
        name = dice.choice(list(members))
        is_json = name.endswith(".json")
        data = (
            json.dumps(changed(dice, json.loads(members[name]))).encode() if is_json else b"\xff" * dice.randint(0, 9)
        )
        tarred(file, members | {name: data})
        assert read(open_source("x2edit", file)) >= 1


@pytest.mark.slow_but_first
@pytest.mark.parametrize("options", [{}, {"map": OTHERS}], ids=["own names", "mapped"])
def test_a_line_of_our_own(tmp_path, options):
    file = jsonl_folder(tmp_path / "e", 1)
    row = json.loads(file.read_text()) | EVERY_FIELD
    dice = random.Random(1)
    for _ in range(400):
        file.write_text(json.dumps(changed(dice, row)))
        assert read(JsonlSource(file, licence="MIT", **options)) == 1
