"""The report page: whole, offline, escaped, and honest about what it does not show."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from support.html_page import Page
from support.made_recordings import EDIT, EXPERTS, LAYERS, TIMES, Make, about, facts, shown, traces
from support.quick_figures import without_layout

from tagmoe.errors import MissingError, ResultError
from tagmoe.report import svg
from tagmoe.routing import predictability
from tagmoe.routing.findings import find
from tagmoe.routing.maps import mapped_cases
from tagmoe.routing.reading import Recording, read_recording
from tagmoe.routing.recording import Condition, Interventions, RecordingWriter
from tagmoe.routing.report import FIGURES, PAGE, write_report
from tagmoe.routing.specialization import MutualInformation
from tagmoe.routing.tables import plain

NASTY = '<script>alert("x")</script>&\'{{ 7 * 7 }} $x_2$'


def report(recording: Recording, folder: Path) -> tuple[Page, dict[str, Any]]:
    folder.mkdir()
    with without_layout():
        write_report(recording, folder)
    page = Page((folder / PAGE).read_text())
    return page, json.loads((folder / "report.json").read_text())


def switched(cases: int, *, judged: bool = True) -> Callable[[RecordingWriter], Interventions]:
    def made(writer: RecordingWriter) -> Interventions:
        ids = [f"{i:06d}" for i in range(cases)]
        picture = np.zeros((16, 16, 3), dtype=np.uint8)
        conditions = [Condition(mode="noise", change=(0.01,) * cases, success=(True if judged else None,) * cases)]
        for layer in (None, *range(LAYERS)):
            for mode in ("off", "forced"):
                for expert in range(EXPERTS):
                    # Expert 2 alone matters: without it every case fails.
                    matters = mode == "off" and expert == 2 and layer is None
                    conditions.append(
                        Condition(
                            mode=mode,  # type: ignore[arg-type]
                            expert=expert,
                            layer=layer,
                            change=(0.4 if matters else 0.02,) * cases,
                            success=((not matters) if judged else None,) * cases,
                            pictures={ids[0]: writer.write_picture(f"x-{layer}-{mode}-{expert}", picture)},
                        )
                    )
        pictures = {ids[0]: writer.write_picture("unchanged", picture)}
        return Interventions(
            cases=tuple(ids),
            success=(True if judged else None,) * cases,
            pictures=pictures,
            conditions=tuple(conditions),
        )

    return made


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it, and nasty text in every place that comes from outside."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "recording").mkdir()
    writer = RecordingWriter(folder / "recording", about(model=NASTY, command=NASTY))
    tasks = ("recolour", NASTY, "add")
    for number in range(18):
        # Six pictures, each with three tasks and the same noise: controls and cases at once.
        leaning = [2.0 if expert == number % 3 else 0.0 for expert in range(EXPERTS)]
        given = facts(
            number,
            tasks[number % 3],
            instruction=f"{NASTY} {number % 6}",
            image=f"p{number // 6}",
            seed=0,
            tags=("local editing",) if number % 3 else ("global editing", "style transfer"),
        )
        pictures = shown(number)
        if number % 3 == 2 and pictures.mask is not None:
            pictures = replace(pictures, mask=pictures.mask[::-1, ::-1])
        writer.add(given, traces(number, lean=leaning), TIMES, pictures, success=True, reasons=[NASTY])
    writer.close(switched(18)(writer))
    report(read_recording(folder / "recording"), folder / "report")
    return folder / "report"


def test_the_page_is_well_formed_offline_and_escaped(full: Path) -> None:
    text = (full / PAGE).read_text()
    page = Page(text)
    assert page.names.count("script") == 1
    assert len(set(page.ids)) == len(page.ids)
    outside = [a for a in page.addresses if not a.startswith(("data:image/png;base64,", "#"))]
    assert sorted(outside) == sorted(p.name for p in full.iterdir() if p.name != PAGE)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    # The name space of SVG is the only address; it is not fetched.
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<script>alert" not in text
    assert NASTY in page.text
    assert "49" not in re.findall(r"&amp;&#39;(..)", text)


def test_nothing_is_missing_from_a_full_recording(full: Path) -> None:
    words = Page((full / PAGE).read_text()).text
    assert "Not shown" not in words
    assert "Random weights" not in words
    assert "undecided" not in words
    names = {path.name for path in full.iterdir()}
    assert names >= {"cases.csv", "utilisation.csv", "information.csv", "tags.csv", "mask.csv", "contrasts.csv"}
    assert "interventions.csv" in names


def test_every_figure_is_an_svg_that_stands_alone_and_follows_the_page(full: Path) -> None:
    files = sorted((full / FIGURES).glob("*.svg"))
    assert len(files) == 18 + 3
    for path in files:
        text = path.read_text()
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg")
        ids = set(re.findall(r' id="([^"]+)"', text))
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
        assert used <= ids
        assert "var(--ink, #22252a)" in text


def test_json_and_tables_agree_with_each_other(full: Path) -> None:
    data = json.loads((full / "report.json").read_text())
    with (full / "utilisation.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = data["findings"]["utilisation"]["recolour"]["target_LN"]
    for row in rows:
        if row["task"] == "recolour" and row["tokens"] == "target":
            value = shares[int(row["layer"]) - 1][int(row["expert"]) - 1]
            assert float(row["share"]) == pytest.approx(value, abs=1e-5)
            assert float(row["deviation"]) == pytest.approx(value - 1 / EXPERTS, abs=1e-5)
    assert sum(float(r["share"]) for r in rows if r["task"] == "add" and r["tokens"] == "target") == pytest.approx(
        LAYERS
    )
    assert data["findings"]["accuracy_layers"]["value"] > data["findings"]["accuracy_layers"]["permuted_high"]
    off = next(
        e for e in data["findings"]["effects"]["switched"] if (e["mode"], e["layer"], e["expert"]) == ("off", None, 2)
    )
    assert off["success"]["value"] == -1.0
    assert off["change"]["value"] == pytest.approx(0.4)


@pytest.mark.slow
def test_a_leaning_that_was_planted_is_in_the_figures_of_its_task(make: Make) -> None:
    found = find(make(lean=4.0))
    for position, task in enumerate(("recolour", "style", "add")):
        assert (found.utilisation[task].target_LN.argmax(axis=1) == position).all()
    assert isinstance(found.information, MutualInformation)
    assert found.information.p_L.max() < 0.01


BARE = {
    "no task": ({"tasks": [None]}, "No case says which task it is"),
    "one task": ({"tasks": ["one"]}, "All cases are of one task, one"),
    "no mask": ({"mask": False}, "No case has an edit mask"),
    "not switched": ({}, "No expert was switched off or forced"),
    "one case": ({"per_task": 1, "tasks": ["one"]}, "It needs three cases whose signatures differ"),
    "one case a task": ({"per_task": 1}, "Fewer than two tasks have two cases or more"),
    "no tags": ({}, "No tag is on some cases"),
    "other pictures": ({}, "No two cases differ in the picture"),
}


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("options", "says"), BARE.values(), ids=BARE)
def test_what_cannot_be_said_has_its_reason(make: Make, options, says) -> None:
    text = json.dumps(plain(find(make(**options))), allow_nan=False)
    assert f'"missing": "{says}' in text


def test_a_bare_page_says_what_it_does_not_show(make: Make, tmp_path: Path) -> None:
    """No tasks, masks or verdicts, random weights, and switched experts of which nobody judged the pictures."""
    recording = make(
        per_task=4,
        tasks=[None],
        mask=False,
        success=None,
        interventions=switched(4, judged=False),
        about_changes={"random_weights": True},
    )
    page, data = report(recording, tmp_path / "report")
    assert "Random weights" in page.text
    assert page.text.count("Not shown: ") >= 8
    assert "nan" not in page.text.lower()
    assert data["findings"]["effects"]["success"] is None
    assert "picture changed without expert 3" in page.text


@pytest.mark.slow
def test_an_unlabelled_full_size_recording_is_shown(tmp_path: Path) -> None:
    """Ten undecided layers, several references, no tasks, thinned steps, cases of different shapes and steps."""
    (tmp_path / "r").mkdir()
    writer = RecordingWriter(tmp_path / "r", about(), case_bytes=1_500_000)
    grids = [((1, 64, 64), (1, 64, 64), (1, 48, 80)), ((1, 40, 90),), EDIT]
    for number, one in enumerate(grids):
        steps = traces(number, one, layers=10)[: 3 - (number == 2)]
        for step in steps:
            step.scores_LBTN = step.scores_LBTN * 0.02 + 0.98 / EXPERTS
        writer.add(facts(number, None), steps, TIMES[: len(steps)], shown(number, sources=len(one) - 1))
    writer.close()
    page, _ = report(read_recording(tmp_path / "r"), tmp_path / "report")
    words = " ".join(page.text.split())
    assert "For 1 of 3 cases the tokens of some steps only were kept (of the first such: 1 of 3 steps)" in words
    assert "The cases have different numbers of steps" in page.text
    assert "Shown are the four layers" in page.text
    assert "The gates are undecided" in page.text
    assert (tmp_path / "report" / PAGE).stat().st_size < 6_000_000


@pytest.mark.slow
def test_the_same_recording_gives_the_same_report(full: Path, tmp_path: Path) -> None:
    report(read_recording(full.parent / "recording"), tmp_path / "again")
    for path in sorted(full.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(full)).read_bytes(), path.name


@svg.as_svg
def drawn() -> Any:
    figure, (axes,) = svg.subplots(2, 1)
    axes.bar(["a", "b"], [1, 2])
    axes.set_title("a title")
    return figure


def test_a_figure_is_the_same_again_and_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert drawn() == drawn()
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ZeroDivisionError), svg.styled():
        _ = 1 / 0
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("library", ["matplotlib", "sklearn"])
def test_a_missing_library_is_named_with_its_install_line(monkeypatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    use = {
        "matplotlib": lambda: svg.as_svg(svg.subplots)(1, 1),
        "sklearn": lambda: predictability.task_accuracy(np.ones((4, 1, 3)), ["a", "a", "b", "b"]),
    }[library]
    with pytest.raises(MissingError, match=r"pip install 'tagmoe\[reports\]'"):
        use()


def test_a_damaged_picture_is_an_error_of_the_recording(make: Make) -> None:
    recording = make(per_task=1)
    for case in recording.cases:
        (recording.folder / case.pictures["output"]).write_bytes(b"")
    with pytest.raises(ResultError, match="output"):
        mapped_cases(recording, np.ones(LAYERS))
