"""The analysis recovers a known taste, and says what is wrong with answers: carelessness, position, exclusions."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.studies import METHODS, Study, planned

from tagmoe.errors import UsageError
from tagmoe.study.analysis import Analysis, analyze, strengths
from tagmoe.study.answers import collect_answers
from tagmoe.study.build import Key
from tagmoe.study.manifest import Manifest
from tagmoe.study.panel import Panel, answer_all
from tagmoe.study.power import detectable, look_around
from tagmoe.study.report import FILES, SIMULATED, write_report

TASTE = dict(zip(METHODS, (1.0, 4.0, 2.0), strict=True))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("plan")
    return planned(folder, cases=30, people=20, ratings=12, seed=1)


def analyzed(manifest: Manifest, folder: Path, **panel: Any) -> Analysis:
    study = Study(folder, manifest, Key(study=manifest.digest, names=(), tokens=()))
    people = Panel(TASTE, **panel)
    store = study.store(simulated=True, about=people.about(manifest))
    answer_all(manifest, store, people)
    store.close()
    return analyze(manifest, collect_answers(manifest, store.path), draws=500)


def test_a_known_taste_is_recovered(manifest: Manifest, tmp_path: Path) -> None:
    analysis = analyzed(manifest, tmp_path, attentive=1.0)
    assert (analysis.sets, analysis.people, analysis.cases) == (360, 20, 30)
    for one in analysis.criteria:
        least, most, middle = (rate.chosen for rate in one.rates)
        assert least < middle < most, "the order of the taste"
        assert sum(rate.chosen for rate in one.rates) == 360
        for rate in one.rates:
            assert rate.expected is not None
            assert abs((rate.two_way.value or 0) - rate.expected) < 0.12
            assert rate.strength == pytest.approx(rate.two_way.value, abs=0.02), "Luce's model is the rate itself"
        (first, second) = one.differences
        assert (first.method, second.method) == METHODS[1:]
        assert first.p is not None
        assert first.p_holm is not None
        assert first.p_holm >= first.p
        assert first.p_holm < 0.05, "ours is liked less than the second"
        assert first.value.high is not None
        assert first.value.high < 0
        assert one.alpha is not None
        assert 0 < one.alpha < 0.5
    inside = [not rate.two_way.excludes(rate.expected or 0) for one in analysis.criteria for rate in one.rates]
    assert sum(map(bool, inside)) >= 7


def test_careless_people_are_excluded_and_listed(manifest: Manifest, tmp_path: Path) -> None:
    analysis = analyzed(manifest, tmp_path, careless=0.3, attentive=1.0)
    excluded = analysis.collected.excluded
    assert 2 <= len(excluded) <= 10
    assert all(re.fullmatch(r"failed \d of \d attention checks", one.reason) for one in excluded)
    assert analysis.sets < analysis.sets_of_all == 360
    rate = analysis.criteria[0].rates[1]
    assert rate.everybody is not None
    assert rate.everybody < (rate.two_way.value or 0), "who clicks anywhere pulls the rates together"


def test_a_bias_to_the_first_position_is_seen(manifest: Manifest, tmp_path: Path) -> None:
    biased = analyzed(manifest, tmp_path, position=1.5).criteria[0]
    assert biased.positions[0] > 1.5 * biased.positions[1]
    assert biased.position_test is not None
    assert biased.position_test[1] < 0.001
    assert (biased.rates[1].two_way.value or 0) > (biased.rates[0].two_way.value or 0), "the square cancels most of it"


def test_the_report_says_simulated_everywhere_and_escapes_all(manifest: Manifest, tmp_path: Path) -> None:
    analysis = analyzed(manifest, tmp_path)
    out = tmp_path / "report"
    out.mkdir()
    data = write_report(analysis, out, about={"command": "tagmoe study analyze", "date": "2026"}, reframed={"x": 3})
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert json.loads((out / "report.json").read_text()) == data
    assert (data["simulated"], data["warning"]) == (True, SIMULATED)
    page = (out / "report.html").read_text()
    assert page.count("SIMULATED") >= 3
    assert "SIMULATED" in (out / "figure.svg").read_text()
    for name in ("rates.csv", "differences.csv", "answers.csv"):
        rows = list(csv.DictReader((out / name).read_text().splitlines()))
        assert {row["answers"] for row in rows} == {"simulated"}
    rows = list(csv.DictReader((out / "answers.csv").read_text().splitlines()))
    assert len(rows) == 3 * sum(map(len, manifest.sheets))
    assert {row["kind"] for row in rows} == {"trial", "check", "repeat"}
    assert "<script" not in page
    assert manifest.digest in page
    for item in ("Recruiting and payment", "Ethics review", "Krippendorff", "Holm", "to be filled in by the authors"):
        assert item in page


def test_nothing_is_said_of_no_answers(manifest: Manifest, tmp_path: Path) -> None:
    study = Study(tmp_path, manifest, Key(study=manifest.digest, names=(), tokens=()))
    study.store().close()
    analysis = analyze(manifest, collect_answers(manifest, tmp_path / "answers.db"))
    assert (analysis.sets, analysis.simulated) == (0, False)
    out = tmp_path / "report"
    out.mkdir()
    write_report(analysis, out, about={}, reframed={})
    page = (out / "report.html").read_text()
    assert "no answers that count" in page
    assert "SIMULATED" not in page


def test_bradley_terry_is_the_share_of_wins(manifest: Manifest) -> None:
    found = strengths(manifest, np.array([0] * 10 + [1] * 30 + [2] * 60))
    assert found is not None
    assert found == pytest.approx([0.1, 0.3, 0.6], abs=0.01)


def test_the_taste_names_every_method_once(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="does not fit the method 'zeta-9000'"):
        Panel(dict.fromkeys(METHODS[1:], 1.0)).check(manifest)
    with pytest.raises(UsageError, match="not above 0"):
        Panel(TASTE | {METHODS[0]: 0.0}).check(manifest)


def test_more_cases_show_smaller_differences() -> None:
    few = detectable(8, 16, 6, 3, 2, repeats=40)
    many = detectable(48, 16, 6, 3, 2, repeats=40)
    assert many["detectable"] is not None
    assert many["detectable"] < (few["detectable"] or math.inf)


@pytest.mark.slow
def test_the_power_of_a_plan_is_kept_in_it(manifest: Manifest) -> None:
    lines: list[str] = []
    found = look_around(manifest, lines.append)
    assert (found["people"], found["cases"], found["tests"]) == (20, 30, 6)
    assert len(lines) == 1 + len(found["designs"])
    json.dumps(found)
