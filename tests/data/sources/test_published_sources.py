"""What every published source must do: no row lost in silence, any start gives the same rest, licences as they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.made_layouts import LAYOUTS
from support.made_published import MAKERS as IN_PARQUET
from support.made_published import Expected
from support.stored_content import content_hash

from tagmoe.cli import run
from tagmoe.data.sources import (
    instruct_pix2pix,
    magicbrush,
    omniedit,
    published_json,
    published_sets,
    subjects200k,
    ultraedit,
    viton_hd,
)
from tagmoe.data.sources.importing import import_source
from tagmoe.data.sources.registry import open_source
from tagmoe.data.sources.source import Licence, Source
from tagmoe.data.store.store import Store
from tagmoe.errors import UsageError

MAKERS = {**IN_PARQUET, **LAYOUTS}
LICENCES = {
    "instruct-pix2pix": (instruct_pix2pix.InstructPix2Pix.licence, Licence("none"), True),
    "ultraedit": (ultraedit.UltraEdit.licence, Licence("CC-BY-4.0"), False),
    "omniedit": (omniedit.OmniEdit.licence, Licence("MIT"), False),
    "viton-hd": (viton_hd.VitonHD.licence, Licence("CC-BY-NC-4.0", commercial=False), True),
    "subjects200k": (subjects200k.Subjects200K.licence, Licence("Apache-2.0"), False),
    "magicbrush": (magicbrush.MagicBrush.licence, Licence("CC-BY-4.0"), False),
    "pico-banana": (
        published_json.PicoBanana.terms,
        Licence("CC-BY-NC-ND-4.0", commercial=False, derivatives=False),
        True,
    ),
    "sharegpt-4o-image": (published_json.ShareGpt4oImage.terms, Licence("none"), True),
    "opengpt-4o-image": (published_json.OpenGpt4oImage.terms, Licence("Apache-2.0"), False),
    "seed-data-edit": (published_json.SeedDataEdit.terms, Licence("CC-BY-NC-4.0", commercial=False), True),
    "gpt-image-edit": (published_json.GptImageEdit.terms, Licence("CC-BY-4.0"), False),
    "nhr-edit": (published_json.NhrEdit.terms, Licence("Apache-2.0"), False),
    "imgedit": (published_sets.ImgEdit.terms, Licence("none"), True),
    "scaleedit": (published_sets.ScaleEdit.terms, Licence("MIT"), False),
    "x2edit": (published_sets.X2Edit.terms, Licence("Apache-2.0"), False),
}


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory) -> tuple[Source, Expected, Path]:
    kind, maker = MAKERS[request.param]
    folder = tmp_path_factory.mktemp("published")
    expected = maker(folder)
    return open_source(kind, folder), expected, folder


@pytest.fixture(scope="module")
def rows(made):
    return list(made[0].rows())


def test_every_row_is_a_record_or_a_reason(made, rows):
    source, expected, _ = made
    assert len(rows) == len(source) == expected.rows
    assert sum(len(row.records) for row in rows) == expected.records
    assert Counter(reason for row in rows for reason in row.skipped) == expected.skipped
    records_a_row = getattr(source, "records_a_row", None)
    assert all(
        len(row.records) + len(row.skipped) in ((records_a_row,) if records_a_row else (1, 3, 2)) for row in rows
    )


@pytest.mark.slow_but_first
def test_any_start_gives_the_same_rest(made, rows):
    source = made[0]
    assert [row.next for row in rows] == list(range(1, len(rows) + 1))
    for start in range(len(rows) + 2):
        assert list(source.rows(start)) == rows[start:], start


def test_a_second_source_on_the_same_files_gives_the_same(made, rows):
    source, _, folder = made
    again = open_source(source.name, folder)
    assert list(again.rows()) == rows
    assert again.fingerprint() == source.fingerprint()


def test_records_carry_what_the_dataset_says_and_no_tags(made, rows):
    source = made[0]
    records = [record for row in rows for record in row.records]
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert record.dataset == source.name
        assert record.licence == source.licence.name
        assert record.tags is None
        assert record.tag_provenance is None
        assert record.instruction.strip() == record.instruction != ""
        assert record.origin
        assert record.target.data


@pytest.mark.slow_but_first
def test_an_interrupted_import_gives_the_same_store(made, tmp_path):
    source, expected, _ = made
    accepted = (source.licence.name,)
    whole = Store.create(tmp_path / "whole")
    done = import_source(whole, source, accepted_licences=accepted)
    assert (done.rows, done.accepted, Counter(done.skipped)) == (expected.rows, expected.records, expected.skipped)

    class Interrupted(Exception):
        pass

    def interrupt(row: int, rows: int) -> None:
        if row in stops:
            stops.remove(row)
            raise Interrupted

    parts = Store.create(tmp_path / "parts")
    stops = sorted({2, expected.rows // 2, expected.rows - 1})
    while stops:
        with pytest.raises(Interrupted):
            import_source(parts, source, accepted_licences=accepted, batch_rows=1, progress=interrupt)
    done = import_source(parts, source, accepted_licences=accepted, batch_rows=1)
    assert done.resumed > 0
    assert (done.rows, done.accepted, Counter(done.skipped)) == (expected.rows, expected.records, expected.skipped)
    assert content_hash(parts) == content_hash(whole)


@pytest.mark.slow_but_first
def test_the_command_line_imports_it(made, tmp_path, capsys):
    source, expected, folder = made
    command = ["data", "import", source.name, str(folder), str(tmp_path / "s"), "--json"]
    assert run([*command, "--accept-licence", source.licence.name]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["accepted"]) == (expected.rows, expected.records)
    assert result["skipped"] == expected.skipped
    assert len(Store.open(tmp_path / "s")) == expected.records
    assert run([*command, "--set", "colour=red", "--accept-licence", source.licence.name]) == 2
    assert "has no option 'colour'" in capsys.readouterr().err


@pytest.mark.parametrize("name", LICENCES)
def test_licences_are_those_of_the_authors(name):
    stated, expected, restricted = LICENCES[name]
    assert stated == expected
    assert stated.restricted is restricted


def test_a_restricted_source_must_be_accepted_by_name(made, tmp_path):
    source = made[0]
    store = Store.create(tmp_path / "s")
    if source.licence.restricted:
        with pytest.raises(UsageError, match=source.licence.name):
            import_source(store, source)
        assert len(store) == 0
    else:
        import_source(store, source)
        assert len(store) > 0


def test_another_option_is_another_import(tmp_path):
    kind, maker = MAKERS["magicbrush"]
    maker(tmp_path)
    prints = [open_source(kind, tmp_path, {"crop_bottom": value}).fingerprint() for value in ("no", "yes", False)]
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    ("case", "file", "before", "after"),
    [
        ("instruct-pix2pix with seeds.json", "seeds.json", "11", "17"),
        ("viton-hd", "train_pairs.txt", "00001_00.jpg 00001_00.jpg", "00001_00.jpg 00003_00.jpg"),
    ],
)
def test_another_list_of_the_same_size_is_another_import(tmp_path, case, file, before, after):
    kind, maker = MAKERS[case]
    maker(tmp_path)
    first = open_source(kind, tmp_path).fingerprint()
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace(before, after))
    assert len(after) == len(before)
    assert open_source(kind, tmp_path).fingerprint() != first
