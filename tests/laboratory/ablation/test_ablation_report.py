"""The report of an ablation: complete, offline, escaped, and the same every time."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
from support.html_page import Page
from support.quick_figures import without_layout

from tagmoe.cli import run
from tagmoe.errors import MissingError
from tagmoe.laboratory.ablation.collection import Collection, read_collection
from tagmoe.laboratory.ablation.figures import DRAWN, figures
from tagmoe.laboratory.ablation.report import render, write_report
from tagmoe.laboratory.ablation.results import Result
from tagmoe.laboratory.ablation.table import Summary, summarise

Make = Callable[..., Result]
ROOT = Path(__file__).parents[3]
KNOWN = ["dense", "moe", "align", "align-frozen", "align-shuffled", "top-2"]
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def summary(arms_folder: Path) -> Summary:
    return summarise(read_collection(arms_folder, known=KNOWN), "moe", draws=200)


@pytest.fixture
def quick_figures() -> Iterator[None]:
    with without_layout():
        yield


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of all figures that of the differences alone, for tests that do not look at the others."""
    for name in set(DRAWN) - {"differences"}:
        monkeypatch.setitem(DRAWN, name, lambda summary: None)
    with without_layout():
        yield


@pytest.fixture(scope="module")
def written(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with without_layout():
        write_report(summary, folder)
    return folder


def test_the_page_is_well_formed_and_shows_every_arm_and_run(written: Path, summary: Summary) -> None:
    page = Page((written / "report.html").read_text())
    text = " ".join(page.words)
    for row in summary.rows:
        assert row.about in text
    assert sum(tag == "svg" for tag, _ in page.tags) == len(DRAWN)
    assert text.count("simulated ") >= 5
    assert len(re.findall(r"\b2026-01-01\b", text)) == 15
    assert text.count("top-2") >= 2  # among what was not run, and as a row that is missing
    assert "no result has the data" not in text.lower()
    assert "var(--ink, #22252a)" in (written / "tasks.svg").read_text()


def test_the_page_loads_nothing_from_outside(written: Path) -> None:
    text = (written / "report.html").read_text()
    assert re.search(r"https?:", text) is None
    addresses = [value for _, attributes in Page(text).tags for name, value in attributes.items() if "href" in name]
    assert all(address is not None and address.startswith("#") for address in addresses)
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", text))
    names = [
        attributes["id"] for tag, attributes in Page(text).tags if tag in ("clippath", "path") and "id" in attributes
    ]
    assert len(names) == len(set(names)), "two figures share an identifier, so that one would be drawn with the other's"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_figures_are_valid_and_the_same_every_time(written: Path, summary: Summary) -> None:
    again = figures(summary)
    assert set(again) == set(DRAWN)
    for name, text in again.items():
        assert (written / f"{name}.svg").read_text() == text + "\n"
        assert ElementTree.fromstring(text).tag.endswith("svg")
    for arm in ("dense", "align"):
        assert arm in again["differences"]


def test_numbers_for_machines_are_complete(written: Path, summary: Summary) -> None:
    data = json.loads((written / "ablation.json").read_text())
    assert [row["arm"] for row in data["arms"]] == [row.arm for row in summary.rows]
    assert data["missing"] == ["top-2"]
    assert len(data["claims"]) == len(summary.claims)
    with (written / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 15
    result = summary.collection.arms["align"][1]
    row = next(run for run in runs if (run["arm"], run["seed"]) == ("align", "1"))
    assert float(row["success"]) == pytest.approx(sum(result.verdicts.success) / len(result.verdicts.success))
    assert (row["seconds training"], row["parameters used"]) == ("910.0", "1400000")
    with (written / "differences.csv").open() as file:
        differences = list(csv.DictReader(file))
    align = [row for row in differences if row["arm"] == "align"]
    assert len([row for row in align if row["task"]]) == 25
    assert {row["verdict"] for row in differences} >= {"resolved", "missing"}
    for arm in ("dense", "align", "align-frozen", "align-shuffled"):
        assert data["resolution"][arm]["cases_for_two_points"] > 100


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_text_from_outside_is_escaped(make_result: Make) -> None:
    runs = {seed: make_result("moe", seed, per_task=1, about=EVIL, machine=EVIL) for seed in (0, 1)}
    other = {seed: make_result(EVIL, seed, per_task=1) for seed in (0, 1)}
    summary = summarise(Collection({"moe": runs, EVIL: other}), "moe", draws=100)
    text = render(summary, figures(summary))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert Page(text).tags


@pytest.mark.slow_but_first
@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize("arms", [("moe",), ("dense",), ("dense", "moe")])
def test_a_report_of_few_arms_and_one_seed(make_result: Make, arms: tuple[str, ...], tmp_path: Path) -> None:
    collection = Collection({arm: {0: make_result(arm, 0, per_task=1, curve=(), training=())} for arm in arms})
    write_report(summarise(collection, arms[0], draws=100), tmp_path)
    assert Page((tmp_path / "report.html").read_text()).tags
    assert not (tmp_path / "convergence.svg").exists()
    assert (tmp_path / "differences.svg").exists() == (len(arms) > 1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_figure")
def test_many_arms_are_all_listed(make_result: Make, tmp_path: Path) -> None:
    arms = [*KNOWN, *(f"switch-{i}" for i in range(14))]
    collection = Collection({arm: {s: make_result(arm, s, per_task=1) for s in (0, 1)} for arm in arms})
    write_report(summarise(collection, "moe", draws=100), tmp_path)
    text = (tmp_path / "differences.svg").read_text()
    assert all(f">{arm}<" in text for arm in arms if arm != "moe")


def test_without_matplotlib_the_extra_is_named(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingError, match=r"tagmoe\[reports\]"):
        figures(summary)


def command(*words: object) -> int:
    return run(["ablation", "report", *map(str, words)])


@pytest.mark.slow
@pytest.mark.usefixtures("one_figure")
def test_the_command(arms_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command(arms_folder, "--out", out, "--arms", "moe,align", "--seeds", "0,2", "--json") == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["report"] == str(out / "report.html")
    assert [row["arm"] for row in data["arms"]] == ["moe", "align"]
    assert data["arms"][0]["seeds"] == [0, 2]
    assert "align" in captured.err
    assert command(arms_folder, "--out", out) == 2
    assert "exists" in capsys.readouterr().err
    assert command(arms_folder, "--out", out, "--force", "--arms", "moe,align", "--baseline", "align") == 0
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.usefixtures("one_figure")
def test_the_command_shows_the_arms_of_a_recipe_folder(
    arms_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in ("common", *KNOWN):
        (recipes / f"{name}.yaml").write_text("about: x\n")
    assert command(arms_folder, "--out", tmp_path / "out", "--recipes", recipes, "--json") == 0
    assert json.loads(capsys.readouterr().out)["missing"] == ["top-2"]
    (recipes / "dense.yaml").unlink()
    assert command(arms_folder, "--out", tmp_path / "other", "--recipes", recipes) == 1
    assert "unknown arm 'dense'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--baseline", "top-2"], 2, "'top-2'"),
        (["--arms", "moe,nope"], 2, "'nope'"),
        (["--arms", ""], 2, "''"),
        (["--seeds", "x"], 2, "--seeds"),
        (["--seeds", "9"], 2, "no results"),
        (["--recipes", "nowhere"], 2, "common.yaml"),
    ],
)
def test_bad_words_are_refused_in_a_sentence_and_leave_nothing(
    arms_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, part: str
) -> None:
    assert command(arms_folder, "--out", tmp_path / "out", *words) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert part in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_mixed_results_are_refused_by_the_command(
    arms_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(arms_folder, tmp_path / "arms"))
    path = folder / "moe" / "seed-1" / "result.json"
    path.write_text(path.read_text().replace("2.13.0", "2.11.0"))
    assert command(folder, "--out", tmp_path / "out") == 1
    assert "torch 2.13.0 and 2.11.0" in capsys.readouterr().err


def docs_script() -> ModuleType:
    spec = util.spec_from_file_location("write_results", ROOT / "tools" / "write_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_the_documents_page_is_written_from_the_results(arms_folder: Path, tmp_path: Path) -> None:
    script = docs_script()
    docs = script.RESULTS
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "old-seed-0.json").write_text("{}")
    script.copy_results(read_collection(arms_folder), tmp_path / "ablation")
    flat = read_collection(tmp_path / "ablation", known=KNOWN)
    text = script.ablation(flat, tmp_path)
    for address in re.findall(r"\]\(([^\s)]+)\)", text):
        here = docs if address.startswith("../") else tmp_path
        assert (here / address).is_file(), address
    assert len(re.findall(r"!\[", text)) == len(DRAWN)
    assert "| **top-2** | missing |" in text
    rows = [line for line in text.splitlines() if line.startswith("| align | ") or line.startswith("| moe | ")]
    assert len([row for row in rows if "2026-01-01" in row]) == 6
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table
