"""`tagmoe study`: what each verb writes, says and refuses, from the plan to the report."""

from __future__ import annotations

import csv
import json
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from support.studies import METHODS, Visitor, write_folders

from tagmoe.pictures import load_image
from tagmoe.study.manifest import read_manifest

PLACES = [f"outputs/{name}" for name in METHODS]
DESIGN = ("--cases", "outputs/cases.jsonl", "--people", 4, "--ratings", 3, "--out", "study")
TASTE = [word for name, weight in zip(METHODS, (1, 4, 2), strict=True) for word in ("--taste", f"{name}={weight}")]


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cases and the outputs of three methods, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    write_folders(Path("outputs"), 6)


@pytest.fixture
def planned(tagmoe: Any) -> Path:
    assert tagmoe("study", "plan", *PLACES, *DESIGN).code == 0
    return Path("study")


@pytest.fixture
def built(tagmoe: Any, planned: Path) -> Path:
    assert tagmoe("study", "build", planned, "--side", 64).code == 0
    return planned


@pytest.fixture
def simulated(tagmoe: Any, built: Path) -> Path:
    assert tagmoe("study", "simulate", built, *TASTE).code == 0
    return built


def test_plan_prints_what_it_froze(tagmoe: Any) -> None:
    (Path("outputs") / METHODS[1] / "c4.jpg").unlink()
    done = tagmoe("study", "plan", *PLACES, *DESIGN, "--json")
    assert done.code == 0
    manifest = read_manifest(Path("study"))
    assert json.loads(done.out) == {
        "study": "study",
        "digest": manifest.digest,
        "cases": 5,
        "methods": list(METHODS),
        "people": 4,
        "sets": 15,
        "left_out": [{"id": "c4", "reason": "alphaedit has no picture"}],
        "twins": 0,
        "power": None,
    }
    assert "5 cases, 3 methods, 4 people: 15 answer sets, " in done.err
    assert "1 case left out for all methods, such as c4: alphaedit has no picture" in done.err
    assert manifest.ours == METHODS[0]


def test_plan_takes_names_strata_languages_and_rates_of_checks(tagmoe: Any) -> None:
    words = [f"m{number}={place}" for number, place in enumerate(PLACES)]
    words += ["--ours", "m1", "--count", 3, "--language", "de", "--language", "en", "--seed", 5]
    done = tagmoe("study", "plan", *words, *DESIGN, "--check-every", 0, "--repeat-every", 0)
    assert (done.code, done.out) == (0, "study\n")
    manifest = read_manifest(Path("study"))
    assert (manifest.names, manifest.ours, manifest.seed) == (["m0", "m1", "m2"], "m1", 5)
    assert list(manifest.languages) == ["de", "en"]
    assert sorted(case.stratum for case in manifest.cases) == ["kind 0", "kind 1", "kind 2"]
    assert {trial.kind for sheet in manifest.sheets for trial in sheet} == {"trial"}


def test_plan_says_that_two_methods_gave_one_picture(tagmoe: Any) -> None:
    copied = (Path("outputs") / METHODS[0] / "c0.png").read_bytes()
    (Path("outputs") / METHODS[2] / "c0.png").write_bytes(copied)
    done = tagmoe("study", "plan", *PLACES, *DESIGN, "--json")
    assert (done.code, json.loads(done.out)["twins"]) == (0, 1)
    assert "In 1 case two methods gave the same picture; a choice between them is chance." in done.err


@pytest.mark.slow
def test_plan_says_which_difference_shows(tagmoe: Any) -> None:
    done = tagmoe("study", "plan", *PLACES, *DESIGN, "--power", "--json")
    assert done.code == 0
    power = json.loads(done.out)["power"]
    assert power == read_manifest(Path("study")).power
    assert (power["power"], power["level"], power["people"], power["cases"]) == (0.8, 0.05, 4, 6)
    assert {(one["people"], one["cases"]) for one in power["designs"]} >= {(4, 6), (8, 6), (4, 12), (8, 12), (4, 3)}
    assert all(0 <= share <= 1 for one in power["designs"] for share in one["powers"].values())
    lines = done.err.splitlines()
    assert lines[0] == "Which difference shows with a power of 80% (120 simulated studies for each line):"
    assert sum("ratings each: " in line for line in lines) == len(power["designs"])


def test_plan_replaces_a_plan_by_force_but_never_answers(tagmoe: Any, planned: Path) -> None:
    tagmoe("study", "plan", *PLACES, *DESIGN).refused(2, "'study' exists", "--force")
    assert tagmoe("study", "plan", *PLACES, *DESIGN, "--seed", 3, "--force").code == 0
    assert read_manifest(planned).seed == 3
    (planned / "notes.txt").write_text("mine")
    tagmoe("study", "plan", *PLACES, *DESIGN, "--force").refused(2, "'notes.txt'", "did not write")
    (planned / "answers.db").touch()
    tagmoe("study", "plan", *PLACES, *DESIGN, "--force").refused(2, "holds answers already", "a new folder")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--ours", "nobody"), ["--ours is 'nobody'", "give one of zeta-9000, alphaedit, middle_b"]),
        (("--count", 9), ["Only 6 of 9 cases"]),
        (("--people", 60), ["60 people are too many for 6 cases"]),
        (("--ratings", 5), ["rated 5 times by 4 people"]),
        (("--language", "fr"), ["none of en, de"]),
        (("--out", "nowhere/study"), ["There is no folder 'nowhere'"]),
        (("--cases", "none.jsonl"), ["cannot be read"]),
        (("--people", 0), ["--people"]),
        (("--people", 10_001), ["--people"]),
        (("--ratings", 0), ["--ratings"]),
        (("--count", 0), ["--count"]),
        (("--check-every", -1), ["--check-every"]),
        (("--repeat-every", 1001), ["--repeat-every"]),
        (("--seed", -1), ["--seed"]),
    ],
)
def test_plan_refuses_what_cannot_be(tagmoe: Any, words: tuple[str, object], parts: list[str]) -> None:
    options = {**dict(zip(DESIGN[::2], DESIGN[1::2], strict=True)), words[0]: words[1]}
    tagmoe("study", "plan", *PLACES, *(word for pair in options.items() for word in pair)).refused(2, *parts)
    assert not Path("study").exists()


def test_build_writes_page_pictures_and_links(tagmoe: Any, planned: Path) -> None:
    done = tagmoe("study", "build", planned, "--side", 64, "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert data == {
        "study": "study",
        "pictures": 24,
        "links": "study/links.txt",
        "reframed": dict.fromkeys(METHODS, 0),
        "folder": "study/public/pictures",
    }
    assert len(list(Path(data["folder"]).iterdir())) == 24
    assert {load_image(path).size for path in Path(data["folder"]).iterdir()} == {(64, 64)}
    links = Path(data["links"]).read_text().splitlines()
    assert len(set(links)) == 4
    assert all(link.startswith("/#") for link in links)
    assert "24 pictures, 4 links in study/links.txt; keep key.json to yourself" in done.err
    tagmoe("study", "build", planned).refused(2, "is built already", "--force")
    again = tagmoe("study", "build", planned, "--force")
    assert (again.code, again.out) == (0, "study/links.txt\n")
    assert not set(links) & set(Path(data["links"]).read_text().splitlines()), "old links are good no more"


def test_build_says_which_shape_tells_the_method(tagmoe: Any) -> None:
    for case in range(6):
        Image.new("RGB", (48, 24), (case, 9, 9)).save(f"outputs/{METHODS[0]}/c{case}.png")
    assert tagmoe("study", "plan", *PLACES, *DESIGN).code == 0
    done = tagmoe("study", "build", "study", "--json")
    assert (done.code, json.loads(done.out)["reframed"][METHODS[0]]) == (0, 6)
    assert "fitted, which may tell the method: zeta-9000 6." in done.err


def test_build_refuses_what_cannot_be(tagmoe: Any, planned: Path) -> None:
    for side in (63, 4097):
        tagmoe("study", "build", planned, "--side", side).refused(2, "--side")
    tagmoe("study", "build", "outputs").refused(2, "is no study", "run tagmoe study plan")
    picture = Path("outputs") / METHODS[0] / "c0.png"
    kept = picture.read_bytes()
    Image.new("RGB", (24, 24)).save(picture)
    tagmoe("study", "build", planned).refused(1, "not the picture that was planned")
    picture.unlink()
    tagmoe("study", "build", planned).refused(1, "A picture of the study is gone")
    assert sorted(path.name for path in planned.iterdir()) == ["manifest.json", "texts"], "nothing half is left"
    picture.write_bytes(kept)
    (planned / "answers.db").touch()
    tagmoe("study", "build", planned, "--force").refused(2, "holds answers already")


def test_simulate_says_what_is_expected(tagmoe: Any, built: Path) -> None:
    done = tagmoe("study", "simulate", built, *TASTE, "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert (data["study"], data["answers"]) == ("study", "study/simulated.db")
    assert data["pages"] == sum(map(len, read_manifest(built).sheets))
    expected = [data["expected"][name] for name in METHODS]
    assert sum(expected) == pytest.approx(1)
    assert expected[0] < expected[2] < expected[1]
    assert f"{data['pages']} pages answered by 4 simulated people" in done.err
    tagmoe("study", "simulate", built, *TASTE).refused(2, "holds simulated answers already", "delete it")
    Path(data["answers"]).unlink()
    again = tagmoe("study", "simulate", built, *TASTE, "--case-sd", 0, "--person-sd", 0, "--careless", 1)
    assert (again.code, again.out) == (0, "study/simulated.db\n")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--taste", "zeta-9000=1"], ["does not fit the method 'alphaedit'"]),
        ([*TASTE, "--taste", "other=1"], ["does not fit the method 'other'"]),
        ([*TASTE, "--taste", "middle_b=3"], ["names 'middle_b' twice"]),
        (["--taste", "middle_b"], ["--taste is 'middle_b'"]),
        (["--taste", "middle_b=much"], ["--taste is 'middle_b=much'"]),
        (["--taste", "middle_b=0"], ["a weight above 0"]),
        (["--taste", "middle_b=nan"], ["a weight above 0"]),
        (["--taste", "=3"], ["--taste is '=3'"]),
        ([], ["--taste"]),
        ([*TASTE, "--careless", 1.1], ["--careless"]),
        ([*TASTE, "--case-sd", -1], ["--case-sd"]),
        ([*TASTE, "--person-sd", 11], ["--person-sd"]),
        ([*TASTE, "--position", -11], ["--position"]),
    ],
)
def test_simulate_refuses_what_cannot_be(tagmoe: Any, planned: Path, words: list[object], parts: list[str]) -> None:
    tagmoe("study", "simulate", planned, *words).refused(2, *parts)
    assert not (planned / "simulated.db").exists()


@pytest.mark.usefixtures("quick_figures")
def test_analyze_prints_what_it_writes(tagmoe: Any, simulated: Path) -> None:
    done = tagmoe("study", "analyze", simulated, "--simulated", "--draws", 100, "--out", "report", "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert (data["report"], data["simulated"], data["draws"]) == ("report/report.html", True, 100)
    assert {name: value for name, value in data.items() if name != "report"} == json.loads(
        Path("report/report.json").read_text()
    )
    assert "SIMULATED: no person gave these answers." in done.err
    for criterion in data["criteria"]:
        assert f"  {criterion}: " in done.err
    rows = list(csv.DictReader(Path("report/rates.csv").read_text().splitlines()))
    assert {row["answers"] for row in rows} == {"simulated"}
    again = ("study", "analyze", simulated, "--simulated", "--draws", 100, "--out", "report")
    tagmoe(*again).refused(2, "'report' exists", "--force")
    shown = tagmoe(*again, "--force")
    assert (shown.code, shown.out) == (0, "report/report.html\n")


def test_analyze_refuses_what_cannot_be(tagmoe: Any, simulated: Path) -> None:
    words = ("study", "analyze", simulated, "--out", "report")
    tagmoe(*words).refused(2, "There are no answers", "tagmoe study serve")
    for draws in (99, 100_001):
        tagmoe(*words, "--simulated", "--draws", draws).refused(2, "--draws")
    tagmoe("study", "analyze", "outputs", "--out", "report").refused(2, "is no study")
    # Simulated answers are never taken for real ones, also where a file was renamed.
    (simulated / "simulated.db").rename(simulated / "answers.db")
    with sqlite3.connect(simulated / "answers.db") as base:
        base.execute("UPDATE study SET simulated = 0")
    base.close()
    tagmoe(*words).refused(1, "mixes real and simulated people")
    (simulated / "answers.db").write_bytes(b"no database")
    tagmoe(*words).refused(1, "cannot be read")
    assert not Path("report").exists()


def test_serve_refuses_what_cannot_be(tagmoe: Any, planned: Path) -> None:
    tagmoe("study", "serve", "outputs").refused(2, "is no study")
    tagmoe("study", "serve", planned, "--port", 0).refused(1, "key.json", "run tagmoe study build")
    assert tagmoe("study", "build", planned, "--side", 64).code == 0
    for words in (["--port", 65_536], ["--port", -1], ["--drain", 0], ["--drain", 86_401]):
        tagmoe("study", "serve", planned, *words).refused(2, words[0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tagmoe("study", "serve", planned, "--port", port).refused(2, f"cannot listen at 127.0.0.1:{port}")
    tagmoe("study", "serve", planned, "--host", "no such host", "--port", 0).refused(2, "cannot listen")
    assert not (planned / "answers.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--simulated"]])
def test_serve_keeps_answers_until_it_is_told_to_end(tagmoe: Any, built: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "tagmoe", "study", "serve", str(built), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    address = said.split(" at ")[1].split("/ for ")[0]
    assert said.endswith("/ for 4 links; they are in study/links.txt\n")
    token = Path("study/links.txt").read_text().splitlines()[0].removeprefix("/#")
    with httpx2.Client() as client:
        visitor = Visitor(address, token, client)
        state = visitor.consent()
        assert state["simulated"] is bool(words)
        assert visitor.answer(0).status_code == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    name = "simulated.db" if words else "answers.db"
    assert [path.name for path in built.iterdir() if path.suffix == ".db"] == [name]
    done = tagmoe("study", "analyze", built, *words, "--draws", 100, "--out", "report", "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert (data["consented"], data["simulated"]) == (1, bool(words))
