"""Our means beside the paper's tables: the numbers are the paper's, and only what is comparable is compared."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from support.prepared_benchmarks import anchor_run

from tagmoe.evaluate.benchmarks.cases import Case, Manifest, Prepared, digest_of_cases
from tagmoe.evaluate.benchmarks.registry import BENCHMARKS
from tagmoe.evaluate.comparison.page import PAGE, write_report
from tagmoe.evaluate.comparison.paper_tables import beside_the_paper, paper_tables
from tagmoe.evaluate.comparison.summary import Summary, summarise
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.metric import Measure, Pair, Value
from tagmoe.evaluate.metrics.registry import LEARNED, METRICS, make_metrics
from tagmoe.evaluate.run_folder import Run, RunFacts, read_run
from tagmoe.evaluate.scoring import score


class Clip:
    """A stand-in for the metrics of weights: it gives known values under their names."""

    name = "clip"
    version = 3
    measures = (Measure("clip_src", "higher", "CLIP to the source"), Measure("vllmq", "higher", "judged", kind="share"))

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        return {"clip_src": 0.9 if pair.case.task == "a" else 0.6, "vllmq": 0.5}


class Mine:
    """An editor that says which revision of a model it is."""

    gives_black = False

    def facts(self):
        model = {"model": "owner/model", "revision": "abc123", "weights": "w" * 64, "settings": {"steps": 4}}
        return {"kind": "editor", "name": "mine", **model}

    def pictures_of(self, case: Case) -> int:
        return 0

    def __call__(self, cases, seeds):
        return [Image.new("RGB", (8, 8), "red") for _ in cases]


def bench(folder: Path, name: str, **facts: object) -> Prepared:
    """Three cases of task a, one of task b."""
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "blue").save(folder / "source.png")
    cases = tuple(
        Case(bench=name, id=f"c{n}", task="ab"[n == 3], instruction="i", source="source.png") for n in range(4)
    )
    manifest = Manifest(
        benchmark=name,
        licence="own",
        made_from="a test",
        settings={"language": "en", "not_chosen": {"language cn": 606}},
        cases=4,
        tasks={"a": 3, "b": 1},
        digest=digest_of_cases(cases),
        **facts,
    )
    return Prepared(folder, manifest, cases)


def run_of(prepared: Prepared, folder: Path) -> Run:
    generate(prepared, Mine(), RunFacts.of(prepared, Mine(), 7), folder)
    return read_run(folder, prepared)


def summary_of(root: Path, name: str, metrics: list[str], **facts: object) -> Summary:
    prepared = bench(root / name, name, **facts)
    runs = [anchor_run(prepared, "copy", root / f"{name} copy"), run_of(prepared, root / f"{name} mine")]
    for run in runs:
        score(prepared, run, make_metrics(metrics))
    return summarise(prepared, runs, draws=200)


@pytest.fixture(autouse=True)
def clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LEARNED, "clip")
    monkeypatch.setitem(METRICS, "clip", Clip)


def test_the_tables_are_of_benchmarks_that_are_here() -> None:
    tables = paper_tables().tables
    assert set(tables) <= set(BENCHMARKS)
    assert {name: table.table for name, table in tables.items()} == {
        "ice-bench": 1,
        "emu-edit": 2,
        "gedit-bench": 2,
        "dreambench-plus": 3,
        "omnicontext": 3,
    }
    ours = {name: dict(zip(table.columns, table.rows["Ours"], strict=True)) for name, table in tables.items()}
    assert (ours["ice-bench"]["aes"], ours["ice-bench"]["vllmq"]) == (5.399, 0.852)
    assert (ours["emu-edit"]["vllmq"], ours["gedit-bench"]["clip_cap"]) == (0.9284, 0.3485)
    assert (ours["dreambench-plus"]["face_ref"], ours["omnicontext"]["dino_ref"]) == (0.3678, 0.7628)
    assert tables["gedit-bench"].rows["EmuEdit"] == (None, None, None)
    assert tables["omnicontext"].rows["Ominicontrol"][3] is None
    # The tables' own facts, as a check of the copy: where the paper's row is the best of the open ones, by the text.
    for name, column in (("ice-bench", "vllmq"), ("emu-edit", "vllmq"), ("gedit-bench", "vllmq")):
        table = tables[name]
        at = table.columns.index(column)
        values = {
            method: row[at] for method, row in table.rows.items() if row[at] is not None and "G" not in method[:1]
        }
        assert max(values, key=lambda method: values[method] or 0) == "Ours"


def test_only_measured_columns_are_compared_by_both_means(tmp_path: Path) -> None:
    found = beside_the_paper(summary_of(tmp_path, "gedit-bench", ["clip", "copying"]))
    assert found is not None
    assert (found.table, found.columns, found.missing) == (2, ("clip_src", "vllmq"), ("clip_cap",))
    assert list(found.differences) == ["mine"], "anchors are not compared"
    ours = found.differences["mine"]["Ours"]
    micro, macro = (3 * 0.9 + 0.6) / 4, (0.9 + 0.6) / 2
    assert ours["clip_src"].paper == 0.9238
    assert ours["clip_src"].micro == pytest.approx(micro - 0.9238)
    assert ours["clip_src"].macro == pytest.approx(macro - 0.9238)
    assert ours["vllmq"].micro == pytest.approx(0.5 - 0.8854)
    assert found.differences["mine"]["EmuEdit"]["clip_src"].micro is None
    assert "The paper's set has 606 or 1,212 cases, and this one 4" in found.caveats[0]
    assert any("no captions" in caveat for caveat in found.caveats)
    assert any("Qwen2-VL-72B" in caveat for caveat in found.caveats)


def test_other_benchmarks_and_other_measures_are_not_compared(tmp_path: Path) -> None:
    assert beside_the_paper(summary_of(tmp_path, "magicbrush", ["clip"])) is None
    nothing = beside_the_paper(summary_of(tmp_path, "ice-bench", ["copying"]))
    assert nothing is not None
    assert (nothing.columns, nothing.differences) == ((), {})
    assert nothing.missing == ("aes", "clip_src", "clip_cap", "clip_ref", "vllmq")


def test_the_report_shows_differences_caveats_and_what_every_number_rests_on(tmp_path: Path) -> None:
    summary = summary_of(
        tmp_path, "gedit-bench", ["clip"], repository="stepfun-ai/GEdit-Bench", revision="0123456789abcdef"
    )
    (tmp_path / "out").mkdir()
    data = write_report(summary, tmp_path / "out", pictures=0, about={})
    page = (tmp_path / "out" / PAGE).read_text()
    for words in (
        "Beside the paper&#39;s Table 2",
        "Columns of the paper that no run was scored by: clip_cap.",
        "0.924 (-0.099)",
        "88.5 (-38.5)",
        "It does not name its seeds",
        "stepfun-ai/GEdit-Bench at 0123456789abcdef",
        "<dt>chosen</dt><dd>language en</dd>",
        "<dt>not asked for</dt><dd>language cn 606</dd>",
        "bootstrap of 1 group (cases of one source together)",
        "owner/model",
        "abc123",
        "seed 7",
        "clip 3",
    ):
        assert words in page, words
    assert (data["repository"], data["revision"]) == ("stepfun-ai/GEdit-Bench", "0123456789abcdef")
    assert data["paper"]["not_measured"] == ["clip_cap"]
    assert data["paper"]["differences"]["mine"]["Ours"]["clip_src"]["paper"] == 0.9238
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == data
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "scores.csv").read_text())))
    mine = next(row for row in rows if (row["editor"], row["measure"], row["task"]) == ("mine", "clip_src", "all"))
    wanted = {
        **{"n": "4", "applicable": "4", "coverage": "1.0", "seed": "7", "metric_version": "3"},
        **{"weights": "w" * 64, "model_revision": "abc123", "data_revision": "0123456789abcdef"},
    }
    assert {name: mine[name] for name in wanted} == wanted
