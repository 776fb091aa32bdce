"""Every writer of pages, figures, tables and lines escapes what comes from outside."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from support.edit_files import picture_bytes
from support.nasty_strings import NASTY

from tagmoe.cli.data.stats import draw
from tagmoe.cli.output import print_result
from tagmoe.data.check.page import render
from tagmoe.data.check.validate import summarise, validate
from tagmoe.data.export import export
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.statistics import Statistics, statistics
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.files.json_lines import json_line, lines_of
from tagmoe.report.csv_text import csv_text
from tagmoe.report.pages import page_environment
from tagmoe.report.printable import one_line, printable

TEXTS = pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))


def nasty_record(text: str) -> Record:
    picture = Picture.of(picture_bytes(1))
    return Record(
        record_id("x", text),
        text,
        picture,
        text,
        "MIT",
        (picture,),
        instructions=(text,),
        caption_source=text,
        native_task=text,
        origin=text,
    )


@TEXTS
def test_a_line_of_json_is_one_line_for_every_reader(text):
    line = json_line({"text": text, text: 1})
    assert line.splitlines(keepends=True) == [line]
    assert json.loads(line) == {"text": text, text: 1}
    assert lines_of(line * 2) == [line[:-1]] * 2


@pytest.mark.slow_but_first
@TEXTS
def test_a_figure_is_xml_that_a_browser_opens(text):
    names = ("data set", "task")
    svg = draw(Statistics(2, {name: {text: 1, "plain": 1} for name in names}, ()))
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "<script" not in svg


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


@pytest.mark.slow_but_first
@TEXTS
def test_a_page_shows_it_and_has_no_tag_of_it(text, tmp_path):
    store = Store.create(tmp_path / "s")
    with store.writing():
        store.append([nasty_record(text)])
    validate(store)
    page = render(store, summarise(store))
    parser = Tags()
    parser.feed(page)
    assert "script" not in parser.tags
    assert printable(page) == page
    made = page_environment("tagmoe.report").from_string("<p>{{ text }}</p>").render(text=text)
    assert made.count("<") == 2


@pytest.mark.slow_but_first
@TEXTS
def test_a_store_counts_exports_and_reads_it_back(text, tmp_path):
    store = Store.create(tmp_path / "s")
    with store.writing():
        store.append([nasty_record(text)])
    assert ET.fromstring(draw(statistics(store))).tag.endswith("svg")
    (tmp_path / "out").mkdir()
    export(store, tmp_path / "out", "jsonl")
    (row,) = JsonlSource(tmp_path / "out").rows()
    assert row.records == (nasty_record(text),)


@TEXTS
def test_a_table_keeps_its_cells(text, capsys):
    rows = [["name", "count"], [text, 1]]
    assert list(csv.reader(io.StringIO(csv_text(rows), newline="")))[1] == [text, "1"]
    print_result({"name": text}, f"{text} 1", as_json=False)
    assert printable(capsys.readouterr().out) == printable(f"{text} 1\n")
    print_result({"name": text}, "", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": text}
    assert len(one_line(text).splitlines()) <= 1
