"""What the factory adds to an editor: a whole plan against the bare loop over the same rows, with the packaged editor.

    python benchmarks/factory.py [--json] [--rows 64] [--rounds 3]

Both edit the same rows in batches of 32, in turns. The plan also checks, picks, drops duplicates, and writes samples.
Times are of the processor, and those within the editor are left out of the difference: both do the same there, and on a
shared machine it varies by a tenth. What a process of the editor's own adds (pictures go there and back) is measured
apart, with an editor that does nothing. The oracle is not compared: it is a judge, and no part of the factory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, report
from PIL import Image

from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.tagworld import TagWorldSource
from tagmoe.data.store.store import Store
from tagmoe.editor import Editor, in_batches
from tagmoe.factory.apart import EditorApart
from tagmoe.factory.folder import Folder
from tagmoe.factory.making import Units
from tagmoe.factory.plan import Edit, Plan, plan_of
from tagmoe.factory.requests import Request, requests_of
from tagmoe.factory.roots import own_wishes
from tagmoe.factory.synthesize import EditorMade, Means, Run
from tagmoe.pictures import load_image

BATCH = 32
CALLS = 20
TASKS = "add,remove,recolour,background,light,style"


def measure(rows: int = 64, rounds: int = 3) -> Sequence[Figure]:
    """Seconds of the processor; the medians of the rounds."""
    import torch

    from tagmoe.pipeline.editor import pipeline_editor
    from tagmoe.pipeline.packaged import load_packaged

    torch.set_num_threads(1)
    editor = Timed(pipeline_editor(load_packaged()))
    bare, beside, whole = [], [], []
    with tempfile.TemporaryDirectory(prefix="tagmoe-factory-") as name:
        folder = Path(name)
        roots = Store.create(folder / "roots")
        import_source(roots, TagWorldSource(rows, seed=77, tasks=TASKS), batch_rows=BATCH)
        plan = _plan(folder / "roots", None)
        asked = _requests(plan, folder / "roots", rows)
        _loop(editor, asked[:BATCH])
        for number in range(rounds):
            editor.seconds = 0.0
            bare.append(_seconds(lambda: _loop(editor, asked)))
            beside.append(bare[-1] - editor.seconds)
            made = Folder(folder / f"made-{number}")
            editor.seconds = 0.0
            whole.append(_seconds(lambda made=made: Run(plan, made, _means(editor)).run()) - editor.seconds)
            assert len(Store.open(made.path / "candidates")) == rows
    base = statistics.median(bare)
    added = statistics.median(after - before for before, after in zip(beside, whole, strict=True))
    apart = _apart()
    note = f"{rows} rows of 64x64, batch {BATCH}, seconds of the processor"
    return [
        Figure("bare_loop_ms_a_row", 1000 * base / rows, "ms", runs=rounds, note=note),
        Figure("factory_overhead", added / base, "share", 0.05, runs=rounds, note=note),
        Figure("factory_overhead_ms_a_row", 1000 * added / rows, "ms", runs=rounds, note=note),
        Figure(
            "own_process_ms_a_row", 1000 * apart / BATCH, "ms", runs=CALLS, note="there and back, wall; 64x64 pictures"
        ),
        Figure("own_process_share", apart / BATCH / (base / rows), "share", 0.01, runs=CALLS, note="of the bare loop"),
    ]


class Timed:
    """An editor that counts the seconds of the processor within its calls."""

    def __init__(self, editor: Editor) -> None:
        self._editor, self.seconds = editor, 0.0

    def __call__(self, *asked: Any) -> Any:
        started = time.process_time()
        try:
            return self._editor(*asked)
        finally:
            self.seconds += time.process_time() - started


def _plan(roots: Path, timeout: float | None) -> Plan:
    edit = {"step": "edit", "batch": BATCH, "timeout": timeout, "licence": "Apache-2.0"}
    steps: list[dict[str, Any]] = [edit, {"step": "check"}, {"step": "pick"}, {"step": "dedupe"}]
    return plan_of({"name": "bench", "dataset": "tagworld", "roots": {"store": str(roots), "unit": 64}, "steps": steps})


def _means(editor: Editor) -> Means:
    made = EditorMade(lambda: editor, "packaged", None, {}, "Apache-2.0")
    return Means(lambda step: made, lambda served: None, lambda title: nullcontext(), lambda text: None)  # type: ignore[arg-type, return-value]


def _requests(plan: Plan, roots: Path, rows: int) -> list[Request]:
    store = Store.open(roots)
    numbers = list(Units(rows, rows).of(0))
    wishes = own_wishes(store, numbers)
    assert isinstance(plan.steps[0], Edit)
    return [
        request
        for row, root in zip(numbers, store.records(numbers), strict=True)
        for request in requests_of(plan, 0, row, root, wishes[row])
    ]


def _loop(editor: Editor, asked: Sequence[Request]) -> list[Any]:
    """What one writes without a factory: pictures are decoded, edited and lost."""

    def ask(places: list[int]) -> Sequence[Any]:
        some = [asked[place] for place in places]
        images = [[load_image(picture.data) for picture in one.pictures] for one in some]
        return editor([one.wish.instruction for one in some], images, [one.seed for one in some])

    return list(in_batches([len(one.pictures) for one in asked], ask, batch=BATCH))


def _seconds(work: Any) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _apart() -> float:
    """Seconds of one call of an editor in a process of its own that gives back what it gets."""
    # By the name of this module, under which the other process can import it.
    from factory import Copies as Importable

    editor = EditorApart(Importable(), 600.0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    asked = (["words"] * BATCH, [[picture]] * BATCH, list(range(BATCH)))
    try:
        editor(*asked)
        found = []
        for _ in range(CALLS):
            started = time.perf_counter()
            editor(*asked)
            found.append(time.perf_counter() - started)
    finally:
        editor.close()
    return statistics.median(found)


class Copies:
    """Makes an editor that gives back what it gets."""

    def __call__(self) -> Any:
        return first


def first(instructions: Sequence[str], images: Sequence[Sequence[Any]], seeds: Sequence[int]) -> list[Any]:
    """The first picture of each row."""
    return [pictures[0] for pictures in images]


if __name__ == "__main__":
    report(
        measure,
        {
            "rows": {"type": int, "default": 64, "help": "rows of a round"},
            "rounds": {"type": int, "default": 3, "help": "rounds of both, in turns"},
        },
    )
