"""The plan: balanced quotas and orders, checks and repeats, cases by stratum, frozen under a digest, clear errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from support.prepared_benchmarks import anchor_run, tagworld_bench
from support.studies import METHODS, planned, write_folders

from tagmoe.errors import DataError, UsageError
from tagmoe.study.allocation import allocate
from tagmoe.study.collect import load_picture
from tagmoe.study.manifest import MANIFEST, Trial, read_manifest
from tagmoe.study.plan import Design, plan
from tagmoe.study.texts_file import PACKAGED, read_languages, texts_of


def test_the_papers_numbers_give_350_sets_in_a_latin_square() -> None:
    sheets = allocate(50, 7, 65, 7, check_every=0, repeat_every=0, seed=3)
    trials = [trial for sheet in sheets for trial in sheet]
    assert len(trials) == 350
    assert Counter(len(sheet) for sheet in sheets) == {5: 40, 6: 25}
    assert set(Counter(trial.case for trial in trials).values()) == {7}
    places = Counter((method, place) for trial in trials for place, method in enumerate(trial.order))
    assert set(places.values()) == {50}, "every method stands at every position equally often"
    assert all(len({trial.case for trial in sheet}) == len(sheet) for sheet in sheets), "nobody sees a case twice"
    by_case = {case: [trial.order for trial in trials if trial.case == case] for case in range(50)}
    assert all(len(set(orders)) == 7 for orders in by_case.values())
    assert len({orders[0][1:] + orders[0][:1] for orders in by_case.values()}) > 40, "each case has a base of its own"


@pytest.mark.parametrize(
    ("cases", "methods", "people", "ratings"), [(1, 2, 1, 1), (5, 3, 4, 4), (7, 3, 5, 2), (50, 7, 65, 65), (9, 4, 8, 5)]
)
def test_every_design_is_balanced(cases: int, methods: int, people: int, ratings: int) -> None:
    sheets = allocate(cases, methods, people, ratings, check_every=10, repeat_every=10, seed=1)
    own = [[trial for trial in sheet if trial.kind == "trial"] for sheet in sheets]
    assert set(Counter(trial.case for sheet in own for trial in sheet).values()) == {ratings}
    sizes = [len(sheet) for sheet in own]
    assert max(sizes) - min(sizes) <= 1
    assert all(len({trial.case for trial in sheet}) == len(sheet) for sheet in own)
    if ratings % methods == 0:
        places = Counter((m, place) for sheet in own for trial in sheet for place, m in enumerate(trial.order))
        assert set(places.values()) == {cases * ratings // methods}


def test_checks_and_repeats_are_what_they_say() -> None:
    for sheet in allocate(12, 4, 6, 6, check_every=5, repeat_every=5, seed=0):
        kinds = Counter(trial.kind for trial in sheet)
        assert kinds == {"trial": 12, "check": 3, "repeat": 3}
        for number, trial in enumerate(sheet):
            if trial.kind == "check":
                assert trial.cases.count(trial.case) == 1
                assert len(set(trial.cases)) == 4, "the others are of different cases"
                assert trial.cases[trial.right] == trial.case
            elif trial.kind == "repeat":
                assert trial.repeats is not None
                before = sheet[trial.repeats]
                assert (before.kind, before.case) == ("trial", trial.case)
                assert number - trial.repeats >= 3
                assert before.order != trial.order, "in another order, or a habit would look like an opinion"


def test_a_person_cannot_rate_a_case_twice() -> None:
    with pytest.raises(UsageError, match="give at most 3 ratings"):
        allocate(5, 3, 3, 4, check_every=0, repeat_every=0, seed=0)


def test_the_plan_is_frozen_and_a_change_is_found(tmp_path: Path) -> None:
    manifest = planned(tmp_path, cases=5)
    study = tmp_path / "study"
    assert read_manifest(study) == manifest
    assert len(manifest.digest) == 64
    assert str(tmp_path) not in (study / MANIFEST).read_text(), "it names no folder of this machine"
    data = json.loads((study / MANIFEST).read_text())
    data["failed_checks"] = 0.9
    (study / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(DataError, match="was changed after it was frozen"):
        read_manifest(study)
    data["sheets"][0][0]["case"] = 99
    (study / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(DataError, match="not one of this version"):
        read_manifest(study)
    with pytest.raises(UsageError, match="is no study"):
        read_manifest(tmp_path)


def test_the_same_seed_gives_the_same_plan_but_for_its_date(tmp_path: Path) -> None:
    one = planned(tmp_path / "a", cases=5, seed=4)
    other = planned(tmp_path / "b", cases=5, seed=4)
    assert one.sheets == other.sheets
    assert one.sheets != planned(tmp_path / "c", cases=5, seed=5).sheets


def test_cases_come_from_every_stratum_and_one_without_an_output_is_dropped_for_all(tmp_path: Path) -> None:
    file = write_folders(tmp_path / "o", 9)
    (tmp_path / "o" / METHODS[1] / "c4.jpg").unlink()
    (tmp_path / "o" / METHODS[2] / "c0.png").write_bytes(b"no picture")
    places = [str(tmp_path / "o" / name) for name in METHODS]
    made = plan(file, places, tmp_path / "study", Design(people=3, ratings=3, count=6))
    assert Counter(case.stratum for case in made.cases) == {"kind 0": 2, "kind 1": 2, "kind 2": 2}
    made = plan(file, places, tmp_path / "study", Design(people=3, ratings=3))
    assert len(made.cases) == 7
    reasons = {one.id: one.reason for one in made.left_out}
    assert reasons["c4"] == "alphaedit has no picture"
    assert "not a picture" in reasons["c0"]
    with pytest.raises(UsageError, match="Only 7 of 9 cases have an output of every method"):
        plan(file, places, tmp_path / "study", Design(people=3, ratings=3, count=9))


def test_runs_of_the_evaluation_are_methods(tmp_path: Path) -> None:
    bench = tagworld_bench(tmp_path / "bench")
    runs = [anchor_run(bench, name, tmp_path / name) for name in ("target", "black")]
    places = [str(run.folder) for run in runs]
    made = plan(tmp_path / "bench", places, tmp_path / "study", Design(people=5, ratings=2, count=10))
    assert made.names == ["target", "black"]
    assert made.methods[0].facts["key"] == runs[0].facts.key
    case = made.cases[0]
    assert load_picture(case.outputs[1], tmp_path / "study").getextrema() == ((0, 0), (0, 0), (0, 0))
    assert len({case.stratum for case in made.cases}) == 10
    (tmp_path / "study").mkdir()
    picture = tmp_path / "study" / case.outputs[0].path
    picture.write_bytes((tmp_path / "study" / case.outputs[1].path).read_bytes())
    with pytest.raises(DataError, match="not the picture that was planned"):
        load_picture(case.outputs[0], tmp_path / "study")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"methods": ["o/zeta-9000"]}, "compares 2 to 12 methods"),
        ({"methods": ["o/zeta-9000", "o/nothing"]}, "There is no folder 'o/nothing'"),
        ({"methods": ["a=o/zeta-9000", "a=o/middle_b"]}, "Two methods are called 'a'"),
        ({"methods": ["=o/zeta-9000", "o/middle_b"]}, "has no name"),
        ({"ours": "other"}, "--ours is 'other'"),
        ({"cases": "o/none.jsonl"}, "cannot be read"),
        ({"cases": "bad.jsonl"}, "is no case"),
        ({"cases": "twice.jsonl"}, "twice"),
        ({"people": 65}, "65 people are too many"),
        ({"languages": ["fr"]}, "none of en, de, and no file"),
        ({"languages": ["en", "en"]}, "comes twice"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folders(Path("o"), 3)
    Path("bad.jsonl").write_text('{"id": 3}\n')
    Path("twice.jsonl").write_text('{"id": "a", "instruction": "x"}\n' * 2)
    given = {"cases": "o/cases.jsonl", "methods": [f"o/{name}" for name in METHODS], "people": 3, **change}
    more = {name: given[name] for name in ("languages", "ours") if name in given}
    design = Design(people=given["people"], ratings=3)
    with pytest.raises(UsageError, match=sentence):
        plan(Path(given["cases"]), given["methods"], Path("study"), design, **more)


def test_a_case_whose_id_leads_out_of_the_folder_is_left_out(tmp_path: Path) -> None:
    write_folders(tmp_path / "o", 2)
    file = tmp_path / "o" / "cases.jsonl"
    file.write_text(file.read_text() + '{"id": "../zeta-9000/c0", "instruction": "x"}\n')
    places = [str(tmp_path / "o" / name) for name in METHODS]
    made = plan(file, places, tmp_path / "study", Design(people=2, ratings=2))
    assert [one.reason for one in made.left_out] == ["zeta-9000 has an id that is no file name"]


def test_every_packaged_language_says_the_same(tmp_path: Path) -> None:
    found = read_languages(list(PACKAGED))
    assert list(found) == ["en", "de"]
    for texts in found.values():
        assert "{number}" in texts.words["page"]
        assert len(texts.consent) == len(found["en"].consent)
    file = tmp_path / "nl.yaml"
    data = texts_of("en").model_dump(mode="json") | {"language": "nl"}
    del data["words"]["next"]
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match="words lacks 'next'"):
        texts_of(str(file))
    data["words"]["next"] = "Volgende"
    data["criteria"] = {"overall": data["criteria"]["overall"]}
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match="give the same ids in the same order"):
        read_languages(["en", str(file)])
    assert list(read_languages([str(file)])["nl"].criteria) == ["overall"], "fewer criteria are asked for that way"


def test_a_page_of_a_check_knows_its_right_position() -> None:
    trial = Trial(kind="check", case=4, order=(1, 0, 2), cases=(3, 4, 0))
    assert trial.shown() == [(3, 1), (4, 0), (0, 2)]
    assert trial.right == 1
