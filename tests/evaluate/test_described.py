"""Any folder as a benchmark, by a description: rows of every format, and every mistake in it in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.published_tables import arrow, csv_file, json_lines, parquet, png, prepared, reasons, struct

from tagmoe.errors import DataError, TagMoEError, UsageError
from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.benchmarks.described import Described, Description, packaged_descriptions, read_description
from tagmoe.evaluate.benchmarks.registry import BENCHMARKS, open_benchmark

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


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png((len(name) * 7 % 256, sum(map(ord, name)) % 256, 50)))


def packaged(name: str, root: Path, out: Path) -> Prepared:
    return prepared(open_benchmark(name, root, accepted=True)[0], out)


def test_kris_bench_comes_in_by_its_description(tmp_path: Path) -> None:
    root = tmp_path / "KRIS_Bench"
    pictures(root, "biology/1.jpeg", "temporal_prediction/1-2.jpg", "temporal_prediction/1-3.jpg")
    pictures(root, "temporal_prediction/1-1.jpg")
    one = {"ori_img": "1.jpeg", "gt_img": "", "ins_en": "left for a long time", "explain_en": "mould"}
    several = {"ori_img": ["1-2.jpg", "1-3.jpg"], "gt_img": "1-1.jpg", "ins_en": "frame 1", "explain_en": ""}
    as_json(root / "biology" / "annotation.json", {"1": one})
    as_json(root / "temporal_prediction" / "annotation.json", {"1": several})
    # Results beside it have no annotation.json one folder down, and are not read.
    as_json(root / "annotation.json", {"9": one})
    found = packaged("kris-bench", root, tmp_path / "bench")
    first, second = found.cases
    assert (first.id, first.task, first.refs, first.target) == ("biology/1", "biology", (), None)
    assert (first.instruction, first.meta) == ("left for a long time", {"explain_en": "mould"})
    assert (second.id, len(second.refs), second.target is not None) == ("temporal_prediction/1", 1, True)
    assert found.picture(str(second.source)) != found.picture(second.refs[0])


def test_rise_bench_comes_in_by_its_description(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pictures(
        root,
        "causal_reasoning_images/10.png",
        "causal_reasoning_images/10_ref.png",
        "logical/6_1.png",
        "logical/6_2.png",
    )
    row = {"index": "causal_reasoning_10", "category": "causal_reasoning", "instruction": "draw it"}
    rows = [
        {**row, "image": "causal_reasoning_images/10.png", "reference_img": "causal_reasoning_images/10_ref.png"},
        {**row, "index": "x", "image": ["logical/6_1.png", "logical/6_2.png"], "reference": "an apple"},
    ]
    as_json(root / "data_total.json", rows)
    found = packaged("rise-bench", root, tmp_path / "bench")
    assert [case.id for case in found.cases] == ["causal_reasoning/causal_reasoning_10", "causal_reasoning/x"]
    assert [(len(case.refs), case.target is not None) for case in found.cases] == [(0, True), (1, False)]
    assert found.cases[1].meta == {"reference": "an apple"}
    # Columns of `meta` that this version of the set lacks are named, and no error.
    assert found.manifest.settings["without_values"] == [
        *("consistency_free", "reasoning_img", "reference_txt", "subtask"),
    ]


def test_edit_compass_comes_in_by_its_description(tmp_path: Path) -> None:
    root = tmp_path / "Edit-Compass"
    pictures(root, "images/a.png", "images/b.png")
    row = {"save_id": 7, "source_image": "images/a.png", "prompt_en": "add it", "prompt_cn": "x"}
    for task, refs in (("Part1/ADD", None), ("Part5/Virtual_Try_On", ["images/b.png"])):
        (root / task).mkdir(parents=True)
        more = {} if refs is None else {"reference_image_path": refs}
        as_json(root / task / f"{task.split('/')[1]}.json", [{**row, **more}])
    found = packaged("edit-compass", root, tmp_path / "bench")
    assert [(case.id, case.task, case.split, len(case.refs)) for case in found.cases] == [
        ("Part1/ADD/7", "ADD", "Part1", 0),
        ("Part5/Virtual_Try_On/7", "Virtual_Try_On", "Part5", 1),
    ]


def test_every_description_that_comes_along_is_a_benchmark() -> None:
    found = packaged_descriptions()
    assert set(found) == {"edit-compass", "kris-bench", "rise-bench"}
    for name, description in found.items():
        assert BENCHMARKS[name].licence == description.licence
        assert BENCHMARKS[name].needs_acceptance


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
        (GOOD.replace("rows.csv", "../rows.csv"), "'rows' is wrong: the pattern leads out"),
        (GOOD.replace("id: name", "id: name, images: x, source: y"), "images are the source and the references"),
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
