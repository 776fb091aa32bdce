"""Texts that have broken writers, in everything of an evaluation that comes from outside: read back as they were."""

from __future__ import annotations

import csv
import io
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.edit_files import picture_bytes
from support.nasty_strings import NASTY

from tagmoe.evaluate.answers.answer import Output
from tagmoe.evaluate.answers.ready import TABLE, ReadyFolder
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase, prepare
from tagmoe.evaluate.benchmarks.cases import Case, read_prepared
from tagmoe.evaluate.benchmarks.ice_bench import IceBench
from tagmoe.evaluate.comparison.page import PAGE, write_report
from tagmoe.evaluate.comparison.radar import radar
from tagmoe.evaluate.comparison.summary import summarise
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.copying import NearCopy
from tagmoe.evaluate.run_folder import RunFacts, read_run
from tagmoe.evaluate.scoring import score
from tagmoe.report.printable import one_line, printable
from tagmoe.report.svg import short

TEXTS = pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))
CASES = 4


class Outside:
    """A benchmark all of whose texts are one nasty text. Its last row is no case."""

    about = ""

    def __init__(self, text: str) -> None:
        self.name = self.licence = self._text = text

    def rows(self) -> Iterator[Row]:
        for number in range(CASES + 1):
            yield Row(f"{self._text} {number}", {"last": number == CASES})

    def case(self, row: Row, pictures: Pictures) -> Case:
        if row.fields["last"]:
            raise UnusableCase(self._text)
        number = int(row.id[-1])
        return Case(
            bench=self.name,
            id=row.id,
            task=f"{self._text} {number % 3}",
            instruction=self._text,
            target_caption=self._text,
            source=pictures.add(picture_bytes(number), "source"),
            meta={self._text: self._text},
        )

    def settings(self) -> Mapping[str, Any]:
        return {self._text: self._text}

    def made_from(self) -> str:
        return self._text


class Editing:
    """An editor that fails at its first case, with the text as its reason."""

    gives_black = False

    def __init__(self, name: str) -> None:
        self._name = name

    def facts(self) -> Mapping[str, Any]:
        return {"kind": "editor", "name": self._name, "settings": {self._name: self._name}}

    def pictures_of(self, case: Case) -> int:
        return 0

    def __call__(self, cases: Sequence[tuple[int, Case]], seeds: Sequence[int]) -> Sequence[Output]:
        if any(place == 0 for place, _ in cases):
            raise ValueError(self._name)
        return [Image.new("RGB", (32, 32), (place * 40, 0, 0)) for place, _ in cases]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def tags(page: str) -> list[str]:
    parser = Tags()
    parser.feed(page)
    return parser.tags


@pytest.mark.slow_but_first
@TEXTS
def test_an_evaluation_of_them_is_read_back_and_reported(text: str, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    manifest = prepare(Outside(text), tmp_path / "bench")
    prepared = read_prepared(tmp_path / "bench")
    assert prepared.manifest == manifest
    assert (manifest.benchmark, manifest.settings, manifest.left_out[0].row) == (text, {text: text}, CASES + 1)
    assert {case.instruction for case in prepared.cases} == {text}
    runs = []
    for name in (text, f"{text}2"):
        editor, folder = Editing(name), tmp_path / f"run{len(runs)}"
        facts = RunFacts.of(prepared, editor, versions={text: text}, command=text, date=text)
        made = generate(prepared, editor, facts, folder, batch=2)
        run = read_run(folder, prepared)
        assert run.facts == facts
        assert tuple(run.answers.values()) == made.answers
        assert (len(made.failures), run.name) == (1, name)
        assert generate(prepared, editor, facts, folder).new == 1, "only what failed is asked again"
        score(prepared, run, [NearCopy()])
        runs.append(run)
    summary = summarise(prepared, runs, draws=100)
    (tmp_path / "out").mkdir()
    about = {"command": text, "date": text}
    data = write_report(summary, tmp_path / "out", pictures=2, about=about, by_task="changed")

    def read(name: str) -> str:
        return (tmp_path / "out" / name).read_bytes().decode()

    assert json.loads(read("report.json")) == data
    assert list(data["editors"]) == [text, f"{text}2"]
    assert "script" not in tags(read(PAGE))
    assert printable(read(PAGE)) == read(PAGE)
    for name in ("scores.csv", "cases.csv"):
        rows = list(csv.reader(io.StringIO(read(name), newline="")))
        assert {line[0] for line in rows[1:]} == {text, f"{text}2"}
        assert len({len(line) for line in rows}) == 1
    lines = read("scores.md").splitlines()
    assert len(lines) == 11, lines
    assert tags(read("scores.md").replace("\\<", "")) == []
    assert len(read("scores.tex").splitlines()) == 8
    drawn = ["".join(one.itertext()).split() for one in ET.fromstring(radar(summary, "changed")).iter()]
    for name in (text, f"{text}2", f"{text} 0"):
        assert short(name).split() in drawn, "a legend or a spoke lacks its name"


@pytest.mark.parametrize("text", ["a|b", "a\\|b", "\\", "a\\\\|", "`|`", "||"])
def test_a_name_is_one_cell_of_a_table_of_markdown(text: str, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    from tagmoe.report.markdown import markdown_text

    table = f"| editor | n |\n|---|---|\n| {markdown_text(text)} | 1 |\n"
    page = MarkdownIt("commonmark").enable("table").render(table)
    cells = [cell.text for cell in ET.fromstring(f"<p>{page}</p>").iter("td")]
    assert cells == [one_line(text), "1"]


def test_what_cannot_be_written_or_found_is_left_out_and_the_rest_is_prepared(tmp_path: Path) -> None:
    plain = {"Task": "Color Editing", "SourceImage": "a.png", "SourceMask": "", "ReferenceImages": []}
    changes: list[dict[str, Any]] = [
        {},
        {"Instruction": "a\ud800b"},
        {"ItemID": "x\udfff"},
        {"SourceImage": "\ud800.png"},
        {"SourceImage": "x" * 5000},
        {"SourceImage": "a\0b"},
    ]
    rows = [
        {"ItemID": f"{number}", **plain, "Instruction": "i", "TargetCaption": "", **change}
        for number, change in enumerate(changes)
    ]
    (tmp_path / "in" / "data").mkdir(parents=True)
    (tmp_path / "in" / "data" / "a.png").write_bytes(picture_bytes(1))
    (tmp_path / "in" / "data" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = prepare(IceBench(tmp_path / "in"), tmp_path)
    assert [case.id for case in read_prepared(tmp_path).cases] == ["0"]
    assert [one.row for one in manifest.left_out] == [2, 3, 4, 5, 6]
    assert "no text in UTF-8" in manifest.left_out[0].reason


def test_a_ready_folder_takes_every_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture_bytes(1))
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(picture_bytes(2))
    names = {"a": "a.png", "b": "c\0d.png", "e": "x" * 5000, "f\ud800": "a.png"}
    case = Case(bench="x", id="a", task="t", instruction="i")
    before = ReadyFolder(tmp_path).facts()["digest"]
    (tmp_path / TABLE).write_text(json.dumps(names))
    ready = ReadyFolder(tmp_path)
    assert ready.facts()["digest"] != before
    found = ready([(0, case.model_copy(update={"id": name})) for name in "abe"], [0] * 3)
    assert [type(one).__name__ for one in found] == ["ReadyFile", "NoPicture", "NoPicture"]
