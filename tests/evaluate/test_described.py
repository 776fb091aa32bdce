"""Any folder as a benchmark, by a description: rows of every format, and every mistake in it in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.published_tables import arrow, csv_file, json_lines, parquet, png, prepared, reasons, struct

from tagmoe.errors import DataError, TagMoEError, UsageError
from tagmoe.evaluate.benchmarks.described import Described, Description, read_description
from tagmoe.evaluate.benchmarks.registry import open_benchmark

FIELDS = {"id": "name", "instruction": "prompt", "source": "picture"}
ROWS = [{"name": f"n{number}", "prompt": f"do {number}", "picture": f"p/{number}.png"} for number in range(3)]


def described(rows: str, **fields: Any) -> Description:
    return Description(name="mine", licence="own", rows=rows, fields={**FIELDS, **fields})


def folder(root: Path) -> Path:
    (root / "p").mkdir(parents=True)
    for number in range(3):
        (root / "p" / f"{number}.png").write_bytes(png((number, 9, 9)))
    return root


def as_json(file: Path, rows: Any) -> Path:
    file.write_text(json.dumps(rows))
    return file


def with_bytes(write: Callable[[Path, Any], Path]) -> Callable[[Path, Any], Path]:
    def of_paths(file: Path, rows: Any) -> Path:
        return write(file, [{**row, "picture": struct((file.parent / row["picture"]).read_bytes())} for row in rows])

    return of_paths


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", json_lines),
        ("rows.json", as_json),
        ("rows.csv", csv_file),
        ("rows.parquet", with_bytes(parquet)),
        ("rows.arrow", with_bytes(arrow)),
    ],
)
def test_rows_of_every_format_give_the_same_cases(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    root = folder(tmp_path / "in")
    write(root / name, ROWS)
    found = prepared(Described(described(name), root), tmp_path / "bench")
    assert [(case.id, case.instruction, case.task, case.lang) for case in found.cases] == [
        (f"n{number}", f"do {number}", "edit", "en") for number in range(3)
    ]
    assert [found.picture(str(case.source)).getpixel((0, 0))[0] for case in found.cases] == [0, 1, 2]
    assert found.manifest.settings["rows"] == name


def test_kris_bench_comes_in_by_a_description(tmp_path: Path) -> None:
    """Its layout: a folder for each category, with annotation.json of keys and entries; pictures beside it."""
    root = tmp_path / "KRIS_Bench"
    for category in ("color_change", "multi-element_composition"):
        (root / category).mkdir(parents=True)
        for name in ("1.jpg", "2.jpg", "1_gt.jpg"):
            (root / category / name).write_bytes(png("red" if category[0] == "c" else "blue"))
        entry = {"ori_img": "1.jpg", "instruction": f"in {category}", "explain": "because"}
        both = {"ori_img": ["1.jpg", "2.jpg"], "instruction": "join", "gt_img": "1_gt.jpg"}
        as_json(root / category / "annotation.json", {"1": entry, "2": both if category[0] == "m" else entry})
    description = Description(
        name="kris",
        licence="not stated",
        rows="*/annotation.json",
        fields={
            "id": "{folder}/{id}",
            "task": "{folder}",
            "instruction": "instruction",
            "refs": "ori_img",
            "target": "gt_img",
            "meta": ["explain"],
        },
    )
    found = prepared(Described(description, root), tmp_path / "bench")
    assert [case.id for case in found.cases] == [
        *("color_change/1", "color_change/2"),
        *("multi-element_composition/1", "multi-element_composition/2"),
    ]
    last = found.cases[-1]
    assert (last.task, len(last.refs), last.target is not None) == ("multi-element_composition", 2, True)
    assert found.picture(last.refs[0]).getpixel((0, 0)) == (0, 0, 255), "beside its own annotation"
    assert found.cases[0].meta == {"explain": "because"}


def test_texts_paths_of_keys_and_constants_fill_fields(tmp_path: Path) -> None:
    root = folder(tmp_path / "in")
    rows = [{"n": number, "turns": [{"text": f"say {number}"}], "more": ["p/1.png", "p/2.png"]} for number in range(2)]
    json_lines(root / "rows.jsonl", rows)
    description = Description(
        name="mine",
        licence="own",
        rows="*.jsonl",
        fields={
            "id": "{file}-{row}",
            "instruction": "turns.0.text",
            "source": "p/{n}.png",
            "refs": ["more.0", "more.1"],
            "target_caption": "turns.0.text",
        },
        constants={"task": "talk", "lang": "de", "split": "test"},
    )
    found = prepared(Described(description, root), tmp_path / "bench")
    case = found.cases[1]
    assert (case.id, case.instruction, case.task, case.lang, case.split) == ("rows-2", "say 1", "talk", "de", "test")
    assert (len(case.refs), case.target_caption, case.caption_origin) == (2, "say 1", "dataset")


def test_rows_that_give_no_case_are_listed(tmp_path: Path) -> None:
    root = folder(tmp_path / "in")
    bad = [
        {**ROWS[1], "picture": "p/none.png"},
        {**ROWS[1], "picture": "/etc/hostname"},
        {**ROWS[1], "name": "x", "prompt": " "},
        {**ROWS[1], "name": ""},
        "no json",
        ROWS[0],
        {**ROWS[1], "name": "text", "picture": ""},
        {**ROWS[1], "name": "url", "picture": "https://example.org/a.png"},
    ]
    json_lines(root / "rows.jsonl", [ROWS[0], *bad])
    found = prepared(Described(described("rows.jsonl"), root), tmp_path / "bench")
    assert [case.id for case in found.cases] == ["n0", "text"]
    assert found.cases[1].source is None
    told = [(one.id, one.reason) for one in found.manifest.left_out]
    assert told == [
        ("n1", "source: missing picture file"),
        ("n1", "source: path of a picture outside the folder"),
        ("x", "it has no instruction"),
        ("", "it has no id"),
        ("rows.jsonl:6", "line that is no JSON"),
        ("n0", "its id stands twice in the files"),
        ("url", "source: URL of a picture, and nothing is fetched"),
    ]
    (root / "rows.csv").write_text("name,prompt,picture\na,b,p/0.png,more\nc,d,p/1.png\n")
    short = prepared(Described(described("rows.csv"), root), tmp_path / "csv")
    assert reasons(short) == {"rows.csv:1": "row of more cells than the first line has names"}


def test_a_misspelt_column_is_an_error_and_no_empty_field(tmp_path: Path) -> None:
    root = folder(tmp_path / "in")
    parquet(root / "rows.parquet", [{"name": "a", "prompt": "b", "picture": struct(png())}])
    csv_file(root / "rows.csv", ROWS)
    for name in ("rows.csv", "rows.parquet"):
        with pytest.raises(DataError, match="No row of mine has a value in the column 'mask_path'"):
            prepared(Described(described(name, mask="mask_path"), root), tmp_path / f"out {name}")
    with pytest.raises(DataError, match=r"No file in .* matches 'x/\*.json'"):
        Described(described("x/*.json"), root)
    with pytest.raises(UsageError, match="There is no folder"):
        Described(described("rows.csv"), tmp_path / "none")


GOOD = "name: mine\nlicence: CC0-1.0\nrows: rows.csv\nfields: {id: name, instruction: prompt}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("licence: CC0-1.0\n", ""), "'licence' is missing"),
        (GOOD + "colour: red\n", "'colour' is unknown"),
        (GOOD.replace("id: name", "id: name, sorce: x"), "'fields.sorce' is unknown"),
        (GOOD.replace("name: mine", "name: ../mine"), "'name' is wrong: small letters"),
        (GOOD + "constants: {id: a}\n", "'constants' is wrong: id cannot be constant"),
        (GOOD + "rows: again\n", "cannot be read as YAML"),
        ("- a\n", "cannot be used"),
    ],
)
def test_a_wrong_description_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(TagMoEError, match=words):
        read_description(tmp_path / "d.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_description(tmp_path / "none.yaml")


def test_a_licence_that_is_not_free_is_to_be_accepted(tmp_path: Path) -> None:
    root = folder(tmp_path / "in")
    csv_file(root / "rows.csv", ROWS)
    file = tmp_path / "d.yaml"
    file.write_text(GOOD.replace("CC0-1.0", "ask the authors"))
    with pytest.raises(UsageError, match=r"The licence of .* is: ask the authors. Add --accept-licence"):
        open_benchmark(str(file), root)
    assert open_benchmark(str(file), root, accepted=True)[0].name == "mine"
    file.write_text(GOOD)
    assert open_benchmark(str(file), root)[0].licence == "CC0-1.0"
