"""Every writer of pages, figures, tables and lines escapes what comes from outside."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from support.annotated_stores import annotate, stored
from support.edit_files import picture_bytes
from support.nasty_strings import NASTY

from tagmoe.annotation.answer import Annotation
from tagmoe.annotation.quality.agree import agree
from tagmoe.annotation.quality.agree_page import render as render_agreement
from tagmoe.annotation.quality.agree_tables import csv_tables, data_of
from tagmoe.annotation.rules.rule_set import packaged_rules, parse_rules
from tagmoe.cli.data.stats import draw
from tagmoe.cli.output import print_result
from tagmoe.data.check.page import render
from tagmoe.data.check.validate import summarise, validate
from tagmoe.data.export import export
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.statistics import Statistics, statistics
from tagmoe.data.store.record import Picture, Record, record_id
from tagmoe.data.store.store import Store
from tagmoe.evaluate.report import Evaluation, results
from tagmoe.evaluate.report import render as render_demo
from tagmoe.evaluate.tagworld import cases, score
from tagmoe.files.json_lines import json_line, lines_of
from tagmoe.intervals import Bootstrap
from tagmoe.model.routing import RoutingTrace
from tagmoe.pipeline.card import card_of
from tagmoe.report.csv_text import csv_text
from tagmoe.report.pages import page_environment
from tagmoe.report.printable import one_line, printable
from tagmoe.routing.explain import Explanation, TagReading
from tagmoe.routing.explain import render as render_explanation

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


def tags_of(page: str) -> list[str]:
    parser = Tags()
    parser.feed(page)
    return parser.tags


def check_page(page: str) -> None:
    """A page has no script of a text, and nothing that cannot be shown."""
    assert "script" not in tags_of(page)
    assert printable(page) == page


@pytest.mark.slow_but_first
@TEXTS
def test_a_page_shows_it_and_has_no_tag_of_it(text, tmp_path):
    store = Store.create(tmp_path / "s")
    with store.writing():
        store.append([nasty_record(text)])
    validate(store)
    page = render(store, summarise(store))
    check_page(page)
    made = page_environment("tagmoe.report").from_string("<p>{{ text }}</p>").render(text=text)
    assert made.count("<") == 2


@pytest.mark.slow
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


@pytest.mark.slow_but_first
@TEXTS
def test_two_annotators_are_compared(text, tmp_path):
    records = [replace(nasty_record(text), id=record_id("x", str(number)), origin=str(number)) for number in range(4)]
    store = stored(tmp_path / "s", records)
    annotate(
        store,
        first=lambda record: Annotation("ok", tags=(0, 4), raw=text, model=text, rules_version=text),
        second=lambda record: (
            Annotation("invalid", reason=text, raw=text, model=text)
            if record.origin == "0"
            else Annotation("ok", tags=(0, 5), raw=text, model=text)
        ),
    )
    report = agree(Store.open(store.uri), "first", "second", gold="second", bootstrap=Bootstrap(100))
    check_page(render_agreement(store, report, ["a.csv"]))
    assert json.loads(json.dumps(data_of(report)))["a"]["models"] == [text]
    for table in csv_tables(report).values():
        assert len({len(row) for row in csv.reader(io.StringIO(table, newline=""))}) == 1


def page_of_an_edit(text: str) -> str:
    scores = torch.full((1, 1, 4, 4), 0.25)
    return render_explanation(
        Explanation(
            instruction=text,
            sources=[],
            result=Image.new("RGB", (8, 8)),
            traces=[RoutingTrace(scores, scores.topk(1).indices, ((1, 2, 2),))],
            signature_N=[0.25] * 4,
            tags=TagReading(None, text, None, text),
            facts={"model": text, text: text},
        )
    )


def demo(text: str) -> Evaluation:
    (case,) = cases(1, 0, ["add"])
    about = {"model": text, "versions": {text: text}, "date": text, "command": text}
    numbers = {"seed": 0, "steps": 1, "cfg": 1.0, "seconds": 1.0}
    judged = score([case], [case.target])
    return Evaluation([replace(case, instruction=text)], [case.target], judged, routing=None, **about, **numbers)


@pytest.mark.slow_but_first
@TEXTS
def test_the_page_of_an_edit_and_that_of_a_demo_show_it(text):
    for drawn in (page_of_an_edit, lambda words: render_demo(demo(words))):
        page = drawn(text)
        assert tags_of(page) == tags_of(drawn("plain"))
        assert printable(page) == page
    assert json.loads(json.dumps(results(demo(text))))["model"] == text


@TEXTS
def test_the_card_of_a_model_and_a_rule_set_hold_it(text):
    settings = {"default_size": 64, "default_steps": 8, "default_cfg": 1.0}
    plain, made = (
        card_of(SimpleNamespace(**settings, trained_on={"pictures": words}), None) for words in ("plain", text)
    )
    assert len(made.splitlines()) == len(plain.splitlines())
    head, page = (MarkdownIt().render(card).count("<") for card in (plain, made))
    assert head == page, "a text of it became markup"
    rules = packaged_rules().with_guidance({"object editing": text[:1000]}, "2")
    assert parse_rules(rules.to_yaml(), "made") == rules
