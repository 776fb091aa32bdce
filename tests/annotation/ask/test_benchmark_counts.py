"""The benchmark of annotation counts answers, and nothing else, as answers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from support.edit_files import picture_bytes

from tagmoe.annotation.answer import ANNOTATION, Annotation
from tagmoe.annotation.ask.asking import LEDGERS
from tagmoe.annotation.ask.ledger import Ledger
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def answered_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("annotate_rows").answered_rows
    # Their names are those of no package, so no other test may meet them.
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_failed_row_counts_as_answered_once_it_is(answered_rows, tmp_path):
    ok, failed = Annotation("ok", tags=(0,)), Annotation("failed", reason="lost")
    store = Store.create(tmp_path / "s")
    edit = Picture.of(picture_bytes(1))
    for fragment in range(2):
        names = [f"{fragment} {row}" for row in range(3)]
        with store.writing():
            store.append([Record(record_id("x", name), "x", edit, name, "MIT") for name in names])
    assert answered_rows(tmp_path / "s") == set()
    with store.writing():
        store.declare([pa.field("annotation_vlm", ANNOTATION)])
        values = [ok.to_row(), failed.to_row(), None]
        store.fill(store.fragments()[0], pa.table({"annotation_vlm": pa.array(values, ANNOTATION)}))
    assert answered_rows(tmp_path / "s") == {0}
    ledger = Ledger(tmp_path / "s" / LEDGERS / "vlm", store.fragments()[1], Annotation.from_row)
    for row, found in ((0, failed), (1, failed), (2, ok)):
        ledger.add(row, found)
    assert answered_rows(tmp_path / "s") == {0, 5}
    ledger.add(1, ok)
    ledger.close()
    assert answered_rows(tmp_path / "s") == {0, 4, 5}
