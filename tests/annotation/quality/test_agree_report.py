"""Two annotators of a store: the pass over its columns, and the page that shows what it found."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from support.annotated_stores import alpha_of, annotate, careless, stored, truth, world_records
from support.html_page import Page
from support.made_pictures import sound

from tagmoe.annotation.answer import Annotation, read_annotations
from tagmoe.annotation.quality import agree as agree_module
from tagmoe.annotation.quality.agree import NO_ANSWER, agree
from tagmoe.annotation.quality.agree_tables import csv_tables, data_of, figures_of, write_report
from tagmoe.annotation.quality.agreement import as_bits
from tagmoe.data.inverse.invert import Rules, invert
from tagmoe.data.store.record import Picture, TagProvenance
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError
from tagmoe.intervals import Bootstrap
from tagmoe.tags import TAG_NAMES, index

FEW = Bootstrap(100)
ROWS = 60


def wrong_of_inverses(record):
    """The truth; of an inverse another type."""
    if record.operation != "inverse":
        return truth(record)
    tags = set(record.tags or ()) ^ {index("pose editing")}
    return Annotation("ok", tags=tuple(sorted(tags)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Records, some inverses, and three annotators."""
    made = stored(tmp_path_factory.mktemp("agree") / "s", world_records(ROWS))
    assert invert(made, Rules()).made.total() > 5
    return annotate(Store.open(made.uri), sloppy=careless(), oracle=truth, turned=wrong_of_inverses)


@pytest.fixture(scope="module")
def report(store):
    return agree(store, "sloppy", "oracle", gold="b", bootstrap=FEW)


@pytest.mark.slow
def test_figures_are_those_of_the_columns(store, report):
    said = [list(read_annotations(store, name)) for name in ("sloppy", "oracle")]
    pairs = [(a, b) for a, b in zip(*said, strict=True) if a is not None and a.tags is not None]
    equal = sum(a.tags == b.tags for a, b in pairs)
    found = report.agreement
    assert (found.rows, report.rows) == (len(pairs), len(store))
    assert found.exact.value == pytest.approx(equal / len(pairs))
    alpha = alpha_of([(a.tags, b.tags) for a, b in pairs], "masi")
    assert found.alpha_masi.value == pytest.approx(alpha)
    assert report.a.statuses["ok"] == len(pairs)
    assert report.a.statuses["refused"] == sum(a is not None and a.status == "refused" for a in said[0]) > 0
    assert report.a.statuses[NO_ANSWER] == said[0].count(None) > 0
    assert report.a.statuses.total() == len(store)
    assert report.a.models["careless-7b"] == len(pairs)
    assert sum(kind.rows for kind in report.disagreements) == len(pairs) - equal
    assert 0.8 < found.micro_f1.value < 1


def test_alpha_of_three_annotators(store):
    names = ("sloppy", "oracle", "turned")
    found = agree(store, *names[:2], also=names[2:], pictures=0, bootstrap=FEW)
    said = [[None if one is None else one.tags for one in read_annotations(store, name)] for name in names]
    for distance, measure in found.alphas_of_all.items():
        assert measure.value == pytest.approx(alpha_of(zip(*said, strict=True), distance))
        assert measure.value != pytest.approx(getattr(found.agreement, f"alpha_{distance}").value)
        assert measure.low < measure.value < measure.high
    assert set(found.alphas_of_all) == {"jaccard", "masi"}
    assert agree(store, "sloppy", "oracle", pictures=0, bootstrap=FEW).alphas_of_all == {}


@pytest.mark.slow
def test_rows_that_differ_most_are_worth_a_look(store, report):
    said = [list(read_annotations(store, name)) for name in ("sloppy", "oracle")]
    for case in report.worst:
        a, b = (set(side[case.row].tags) for side in said)
        named = {
            f"only {name}: {', '.join(TAG_NAMES[tag] for tag in sorted(tags))}"
            for name, tags in (("sloppy", a - b), ("oracle", b - a))
            if tags
        }
        assert set(case.why) == named
    worst = [case.row for case in report.worst]
    assert len(worst) == len(set(worst)) == agree_module.SHOWN


@pytest.mark.slow
def test_inverses_are_compared_with_their_parents(store):
    found = agree(store, "turned", "oracle", pictures=0, bootstrap=FEW)
    inverses = sum(batch.num_rows for batch in store.scan(["id"], where="operation = 'inverse'"))
    assert found.a.inverse.pairs == found.b.inverse.pairs == inverses
    assert found.a.inverse.consistent.value == 0
    assert found.b.inverse.consistent.value == 1
    parent, child, differing = found.a.inverse.examples[0]
    assert differing == ("pose editing",)
    records = store.records([parent, child])
    assert records[1].parent == records[0].id


@pytest.mark.slow
def test_pixels_speak_against_false_tags(store, report):
    found = report.a.evidence, report.b.evidence
    assert found[0].rows <= found[1].rows < len(store)
    shares = [side.faulty / side.rows for side in found]
    # the true tags are contradicted less than careless ones, and some wrong ones are found
    assert shares[1] < shares[0]
    assert report.a.conflicting
    for case in report.a.conflicting:
        assert all(reason.startswith("sloppy: ") for reason in case.why)
    wrong = annotate(Store.open(store.uri), everything=lambda record: Annotation("ok", tags=(0, 6, 13)))
    local = agree(wrong, "everything", "oracle", pictures=60, bootstrap=FEW).a.evidence
    assert local.by_name["local editing but most pixels changed"] > 5
    assert local.faulty / local.rows > shares[0]


def test_partial_tags_are_no_answer(store):
    found = agree(store, "tags", "oracle", pictures=0, bootstrap=FEW)
    assert found.a.statuses[NO_ANSWER] == found.b.inverse.pairs > 0
    assert found.agreement.rows == found.a.statuses["ok"] == ROWS
    assert found.agreement.exact.value == 1
    assert found.agreement.alpha_masi.value == 1
    assert found.disagreements == found.worst == ()


@pytest.mark.slow
def test_the_pass_does_not_depend_on_batches_or_order(store, tmp_path):
    records = [replace(record, tags=tuple(record.tags or ())) for record in store.records(range(len(store)))]
    other = annotate(stored(tmp_path / "s", records[::-1], rows=61), sloppy=careless(), oracle=truth)
    there, here = (agree(one, "sloppy", "oracle", gold="b", pictures=0, bootstrap=FEW) for one in (store, other))
    assert there.agreement.rows == here.agreement.rows
    assert there.agreement.alpha_masi.value == pytest.approx(here.agreement.alpha_masi.value)
    assert [tag.kappa.value for tag in there.agreement.tags] == [tag.kappa.value for tag in here.agreement.tags]
    assert [kind[:3] for kind in there.disagreements] == [kind[:3] for kind in here.disagreements]
    assert there.a.inverse.consistent.value == here.a.inverse.consistent.value


@pytest.mark.slow
def test_only_as_many_pictures_are_read_as_told(store, monkeypatch):
    read = []
    take = Store.take
    monkeypatch.setattr(Store, "take", lambda self, rows, columns=None: read.extend(rows) or take(self, rows, columns))
    found = agree(store, "sloppy", "oracle", pictures=30, bootstrap=FEW)
    assert sorted(read) == sorted(found.looked_at)
    assert len(read) == 30
    assert found.a.issues.rows <= 30
    assert agree(store, "sloppy", "oracle", pictures=0, bootstrap=FEW).looked_at == ()


def test_the_page_is_whole_and_loads_nothing(store, report, tmp_path):
    write_report(store, report, tmp_path)
    text = (tmp_path / "agree.html").read_text()
    page = Page(text)
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)
    assert "sloppy" in page.text
    assert "0 records" not in page.text
    links = {(a.get("href") or "")[1:] for tag, a in page.tags if tag == "a"}
    assert links <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.count("article", "card") >= agree_module.SHOWN
    assert page.names.count("img") >= 2 * agree_module.SHOWN
    assert all(name in page.text for name in TAG_NAMES)
    data = json.loads((tmp_path / "agree.json").read_text())
    assert data["figures"]["alpha"]["value"] == report.agreement.alpha_masi.value
    rows = list(csv.DictReader((tmp_path / "tags.csv").read_text().splitlines()))
    assert [row["tag"] for row in rows] == list(TAG_NAMES)
    assert float(rows[0]["kappa"]) == pytest.approx(report.agreement.tags[0].kappa.value, rel=1e-5)
    confusion = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert len(confusion) == len(TAG_NAMES) + 2
    assert set(figures_of(report)) == {"alpha", "alpha_jaccard", "exact", "jaccard", "micro_f1", "macro_f1", "inverse"}


def test_rows_to_look_at_are_in_the_table(report):
    rows = list(csv.DictReader(csv_tables(report)["rows.csv"].splitlines()))
    assert {row["reason"] for row in rows} >= {"differs", "rules", "label issue", "inverse", "conflict"}
    assert sum(row["reason"] == "label issue" and row["annotator"] == "sloppy" for row in rows) == len(
        report.a.issues.issues
    )
    json.dumps(data_of(report), allow_nan=False)


@pytest.mark.slow
def test_text_from_outside_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    records = [sound(n, instruction=evil, native_task=evil, dataset=evil) for n in range(8)]
    made = annotate(stored(tmp_path / "s", records), one=truth, two=careless(drop=0.5, silent=0))
    found = agree(made, "one", "two", bootstrap=FEW)
    write_report(made, found, tmp_path)
    page = Page((tmp_path / "agree.html").read_text())
    assert "script" not in page.names
    assert evil in page.text
    assert "too few for a probe" in page.text


def test_damaged_pictures_are_shown_as_such(tmp_path):
    broken = Picture(sound(0).target.data[:400], 128, 128)
    records = [sound(0, target=broken), sound(1, images=()), *(sound(n) for n in range(2, 8))]
    nothing = annotate(stored(tmp_path / "s", records), one=truth, two=lambda record: Annotation("ok", tags=()))
    found = agree(nothing, "one", "two", bootstrap=FEW)
    assert found.agreement.exact.value == 0
    write_report(nothing, found, tmp_path)
    page = Page((tmp_path / "agree.html").read_text())
    assert page.count("div", "blank") > 0
    assert found.a.issues.rows == 7


def test_a_tag_that_nobody_gave_is_not_defined(tmp_path):
    made = annotate(stored(tmp_path / "s", [sound(n) for n in range(6)]), one=truth, two=truth)
    found = agree(made, "one", "two", gold="a", bootstrap=FEW)
    assert found.agreement.alpha_masi.value is None
    assert all(tag.kappa.value is None for tag in found.agreement.tags)
    assert found.agreement.macro_f1.value == 1
    write_report(made, found, tmp_path)
    assert "not defined" in Page((tmp_path / "agree.html").read_text()).text


def test_what_cannot_be_compared_is_refused_in_words(store, tmp_path):
    with pytest.raises(UsageError, match="Both annotators are 'oracle'"):
        agree(store, "oracle", "oracle")
    with pytest.raises(UsageError, match="given twice"):
        agree(store, "oracle", "sloppy", also=["oracle"])
    with pytest.raises(UsageError, match="no annotator 'qwen'; it has tags, oracle, sloppy, turned"):
        agree(store, "qwen", "oracle")
    with pytest.raises(UsageError, match="has no rows"):
        agree(Store.create(tmp_path / "empty"), "a", "b")
    halves = annotate(
        stored(tmp_path / "halves", [sound(0), sound(1)]),
        first=lambda record: truth(record) if record.id == sound(0).id else None,
        second=lambda record: truth(record) if record.id == sound(1).id else Annotation("failed", reason="no"),
    )
    with pytest.raises(UsageError, match=r"'first' \(1 row\) and 'second' \(1 row\) have no rows in common"):
        agree(halves, "first", "second")


@pytest.mark.slow
def test_untagged_records_have_no_canonical_answer(tmp_path):
    records = [sound(0, tags=None), *(sound(n, tag_provenance=TagProvenance("people")) for n in range(1, 7))]
    made = annotate(stored(tmp_path / "s", records), other=careless(drop=0.4, silent=0), people=truth)
    found = agree(made, "tags", "other", bootstrap=FEW)
    assert found.by_definition == 0
    assert agree(made, "people", "tags", bootstrap=FEW).by_definition == 6
    assert agree(made, "people", "other", bootstrap=FEW).by_definition == 0
    assert found.a.statuses == {"ok": 6, NO_ANSWER: 1}
    assert as_bits(sound(1).tags) == as_bits((0, 6, 13))
