"""Benchmarks from files of their published schema that the test makes: each trap of a data set, and faults of rows."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.published_tables import arrow, dataset_dict, json_lines, parquet, png, prepared, reasons, struct

from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.answers.ready import ReadyFolder
from tagmoe.evaluate.benchmarks.benchmark import prepare
from tagmoe.evaluate.benchmarks.emu_edit import EmuEdit
from tagmoe.evaluate.benchmarks.gedit_bench import GEditBench
from tagmoe.evaluate.benchmarks.gedit_bench_v2 import GEditBenchV2
from tagmoe.evaluate.benchmarks.magicbrush import MagicBrushDev
from tagmoe.evaluate.benchmarks.omnicontext import TASKS, OmniContext
from tagmoe.evaluate.comparison.labels import labelled
from tagmoe.evaluate.comparison.tables import unit
from tagmoe.evaluate.generation import generate
from tagmoe.evaluate.metrics.registry import kind_of
from tagmoe.evaluate.run_folder import RunFacts

CELL = base64.b64encode(png()).decode()


def colour(number: int) -> tuple[int, int, int]:
    return (number % 256, 40, 90)


def emu_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "instruction": f"edit {number}",
        "image": struct(png(colour(number))),
        "task": "add" if number % 2 else "style",
        # What this column holds is not known, so it lies.
        "split": "neither",
        "idx": number,
        "hash": f"h{number}",
        "input_caption": "a train station in city",
        "output_caption": f"caption {number % 3}",
    }
    return {**row, **changes}


def emu_sets(root: Path) -> tuple[Path, Path]:
    """The set of inputs (validation 4, test 6) and the set with outputs, whose splits are called the other way."""
    validation = [emu_row(n) for n in range(4)]
    test = [emu_row(n, output_caption="a train station in city" if n > 7 else f"c{n}") for n in range(4, 10)]
    parquet(root / "in" / "data" / "validation-00000-of-00001.parquet", validation)
    parquet(root / "in" / "data" / "test-00000-of-00001.parquet", test)
    made = [{**row, "edited_image": struct(png((0, row["idx"], 99))), "model": "emu"} for row in (*test, *validation)]
    # In another order, so that only the hash tells what belongs together.
    parquet(root / "out" / "data" / "validation-00000-of-00001.parquet", made[:6][::-1])
    parquet(root / "out" / "data" / "test-00000-of-00001.parquet", made[6:][::-1])
    return root / "in", root / "out"


def test_emu_edit_has_the_same_cases_from_both_sets_though_their_splits_are_exchanged(tmp_path: Path) -> None:
    inputs, outputs = emu_sets(tmp_path)
    cases = {}
    for name, path in (("in", inputs), ("out", outputs)):
        found = prepared(EmuEdit(path, split="validation"), tmp_path / "bench" / name)
        assert {case.split for case in found.cases} == {"validation"}
        assert found.manifest.settings["not_chosen"] == {"split test": 6}
        cases[name] = {case.id: case.key for case in found.cases}
    assert cases["in"] == cases["out"]
    assert list(cases["in"]) == ["validation_style_0", "validation_add_1", "validation_style_2", "validation_add_3"]
    parquet(tmp_path / "odd" / "rows.parquet", [emu_row(1)])
    with pytest.raises(DataError, match=r"'rows.parquet' tells neither split"):
        list(EmuEdit(tmp_path / "odd").rows())


def test_emu_edit_filters_rows_of_one_caption_and_counts_them(tmp_path: Path) -> None:
    inputs, _ = emu_sets(tmp_path)
    found = prepared(EmuEdit(inputs, filter="same-caption"), tmp_path / "bench")
    assert (found.manifest.cases, found.manifest.left_out) == (8, ())
    assert found.manifest.settings == {"split": "all", "filter": "same-caption", "not_chosen": {"same caption": 2}}
    case = next(case for case in found.cases if case.id == "test_add_5")
    assert (case.target_caption, case.caption_origin, case.target) == ("c5", "dataset", None)
    with pytest.raises(UsageError, match="The option filter is 'all'"):
        EmuEdit(inputs, filter="all")


def test_outputs_of_emu_edit_are_joined_by_hash_and_are_ready_outputs(tmp_path: Path) -> None:
    inputs, outputs = emu_sets(tmp_path)
    for name, benchmark in (("joined", EmuEdit(inputs, generations=outputs)), ("own", EmuEdit(outputs))):
        bench = prepared(benchmark, tmp_path / name)
        answers = ReadyFolder(bench.folder / "outputs" / "emu-edit")
        run = tmp_path / f"{name} run"
        made = generate(bench, answers, RunFacts.of(bench, answers), run)
        assert made.counts == {"ok": 10}
        for case, answer in zip(bench.cases, made.answers, strict=True):
            number = int(case.id.rsplit("_", 1)[1])
            with Image.open(run / str(answer.file)) as picture:
                assert picture.convert("RGB").getpixel((0, 0)) == (0, number, 99)
    # A hash that stands for several rows is told apart by task and number; one that is nowhere has no output.
    same = [emu_row(n, hash="same" if n < 3 else f"h{n}") for n in range(4)]
    parquet(tmp_path / "in2" / "validation-0.parquet", same)
    made_rows = [{**row, "edited_image": struct(png((0, row["idx"], 99)))} for row in same[:3]]
    parquet(tmp_path / "out2" / "test-0.parquet", made_rows[::-1])
    bench = prepared(EmuEdit(tmp_path / "in2", generations=tmp_path / "out2"), tmp_path / "twice")
    answers = ReadyFolder(bench.folder / "outputs" / "emu-edit")
    made = generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "twice run")
    assert [answer.status for answer in made.answers] == ["ok", "ok", "ok", "missing"]
    with pytest.raises(DataError, match="no column 'edited_image'"):
        EmuEdit(inputs, generations=inputs)


def test_a_shard_of_emu_edit_that_is_there_twice_is_listed(tmp_path: Path) -> None:
    """As revisions of the set were, in which a shard was loaded up again under another name."""
    for name in ("test-00000-of-00001-aa", "test-00000-of-00001-bb"):
        parquet(tmp_path / "in" / "data" / f"{name}.parquet", [emu_row(1), emu_row(2)])
    found = prepared(EmuEdit(tmp_path / "in"), tmp_path / "bench")
    assert found.manifest.cases == 2
    assert reasons(found) == dict.fromkeys(("test_add_1", "test_style_2"), "its id stands twice in the files")


def gedit_row(key: str, language: str, **changes: Any) -> dict[str, Any]:
    row = {
        "task_type": "subject-add",
        "key": key,
        "instruction": f"edit {key} in {language}",
        "instruction_language": language,
        "input_image": struct(png("red")),
        "input_image_raw": struct(png("blue")),
        "Intersection_exist": key != "b",
    }
    return {**row, **changes}


GEDIT = [gedit_row(key, language) for key in "abc" for language in ("en", "cn")]


@pytest.mark.parametrize("form", ["dict", "split", "parquet", "arrow", "file"])
def test_gedit_bench_is_read_in_every_form(tmp_path: Path, form: str) -> None:
    if form in ("dict", "split"):
        path = dataset_dict(tmp_path / "in", GEDIT) / ("" if form == "dict" else "train")
    elif form == "parquet":
        parquet(tmp_path / "in" / "data" / "train-00000-of-00002.parquet", GEDIT[:2])
        path = parquet(tmp_path / "in" / "data" / "train-00001-of-00002.parquet", GEDIT[2:]).parents[1]
    else:
        file = arrow(tmp_path / "in" / "data-00000.arrow", GEDIT)
        path = file if form == "file" else file.parent
    found = prepared(GEditBench(path), tmp_path / "bench")
    assert [case.id for case in found.cases] == [f"subject-add/en/{key}" for key in "abc"]
    assert found.manifest.settings["not_chosen"] == {"language cn": 3}
    assert {case.target_caption for case in found.cases} == {None}, "it has no captions"
    assert found.picture(str(found.cases[0].source)).getpixel((0, 0)) == (255, 0, 0)


def test_a_dataset_dict_that_datasets_wrote_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageColumn

    features = Features({name: Value("string") for name in ("task_type", "key", "instruction", "instruction_language")})
    features["Intersection_exist"] = Value("bool")
    features["input_image"] = features["input_image_raw"] = ImageColumn()
    rows = Dataset.from_list([{name: row[name] for name in features} for row in GEDIT], features=features)
    DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "in"))
    assert prepared(GEditBench(tmp_path / "in"), tmp_path / "bench").manifest.cases == 3


def test_gedit_bench_takes_language_subset_and_picture(tmp_path: Path) -> None:
    path = dataset_dict(tmp_path / "in", GEDIT)
    chinese = prepared(GEditBench(path, language="cn", picture="input_image_raw"), tmp_path / "cn")
    assert {(case.lang, case.id[:15]) for case in chinese.cases} == {("cn", "subject-add/cn/")}
    assert chinese.picture(str(chinese.cases[0].source)).getpixel((0, 0)) == (0, 0, 255)
    shared = prepared(GEditBench(path, language="all", subset="intersection"), tmp_path / "shared")
    assert sorted(case.id[-4:] for case in shared.cases) == ["cn/a", "cn/c", "en/a", "en/c"]
    with pytest.raises(UsageError, match="The option language is 'zh'; choose one of en, cn, all"):
        GEditBench(path, language="zh")


def test_captions_that_a_model_wrote_are_said_to_be_so(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"id": "subject-add/en/a", "caption": "a cup"}) + "\n")
    path = dataset_dict(tmp_path / "in", GEDIT)
    found = prepared(GEditBench(path, captions=str(file)), tmp_path / "bench")
    assert [(case.target_caption, case.caption_origin) for case in found.cases] == [
        ("a cup", "generated"), (None, None), (None, None),
    ]  # fmt: skip
    assert len(found.manifest.settings["captions"]) == 64
    clip = next(measure for measure in kind_of("clip")[1] if measure.name == "clip_cap")
    assert unit(labelled(found, clip)) == "clip_cap@generated (up)"
    plain = prepared(GEditBench(path), tmp_path / "plain")
    assert labelled(plain, clip) == clip
    other = next(measure for measure in kind_of("clip")[1] if measure.name == "clip_src")
    assert labelled(found, other) == other
    for bad in ("", "{", "[1]\n", '{"id": "a"}\n', '{"id": "a", "caption": 3}\n', '{"id": "a", "caption": " "}\n'):
        file.write_text(bad)
        with pytest.raises(UsageError, match=r"captions '.*' (are no JSON lines|cannot be read)"):
            GEditBench(path, captions=str(file))


def test_outputs_of_gedit_bench_are_found_where_its_scripts_keep_them(tmp_path: Path) -> None:
    bench = prepared(GEditBench(dataset_dict(tmp_path / "in", GEDIT), language="all"), tmp_path / "bench")
    for case in bench.cases:
        for ending in ("", "_SRCIMG"):
            file = tmp_path / "model" / "fullset" / f"{case.id}{ending}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png("green"))
    answers = ReadyFolder(tmp_path / "model" / "fullset")
    assert generate(bench, answers, RunFacts.of(bench, answers), tmp_path / "run").counts == {"ok": 6}


def test_rows_of_gedit_bench_that_are_no_case_are_listed(tmp_path: Path) -> None:
    rows = [
        gedit_row("a", "en"),
        gedit_row("b", "zh"),
        gedit_row("c", "en", input_image=None),
        gedit_row("d", "en", instruction=" "),
        gedit_row("e", "en", input_image=struct(png()[:30])),
        gedit_row("a", "en"),
        gedit_row("", "en"),
    ]
    found = prepared(GEditBench(parquet(tmp_path / "in" / "train.parquet", rows).parent), tmp_path / "bench")
    assert [case.id for case in found.cases] == ["subject-add/en/a"]
    told = [(one.id, one.reason) for one in found.manifest.left_out]
    assert told[0] == ("train.parquet:2", "its language 'zh' is none of en and cn")
    assert told[1] == ("subject-add/en/c", "input_image: there is none")
    assert told[2] == ("subject-add/en/d", "it has no instruction")
    assert told[3][1].startswith("input_image: ")
    assert told[4:] == [("subject-add/en/a", "its id stands twice in the files"), ("", "it has no id")]
    with pytest.raises(DataError, match=r"has no column 'key'"):
        GEditBench(parquet(tmp_path / "odd" / "train.parquet", [{"task_type": "x"}]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no table"):
        GEditBench(tmp_path / "empty")
    whole = parquet(tmp_path / "torn" / "train.parquet", rows[:1])
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        GEditBench(whole)


def turned() -> bytes:
    """A picture 12 wide that is to be shown turned."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_omnicontext_has_several_upright_references_and_english_alone(tmp_path: Path) -> None:
    def row(key: str, task: str = "multi_object", **changes: Any) -> dict[str, Any]:
        images = [struct(turned()), struct(png("blue"))]
        base = {"key": key, "task_type": task, "instruction": f"do {key}", "instruction_language": "en"}
        return {**base, "input_images": images, **changes}

    rows = [row("a"), row("b", instruction_language="cn"), row("c", "juggling"), row("d", input_images=[])]
    parquet(tmp_path / "in" / "data" / "train-0.parquet", rows)
    found = prepared(OmniContext(tmp_path / "in"), tmp_path / "bench")
    (case,) = found.cases
    assert (case.id, case.source, len(case.refs)) == ("multi_object/a", None, 2)
    assert [found.picture(name).size for name in case.refs] == [(8, 12), (12, 8)]
    assert (case.target_caption, case.caption_origin) == ("do a", "prompt")
    assert found.manifest.settings == {"language": "en", "not_chosen": {"language cn": 1}}
    assert reasons(found) == {
        "juggling/c": "its task 'juggling' is unknown",
        "multi_object/d": "its input_images is no list of pictures",
    }
    # The copy as JSON lines names pictures by their paths.
    (tmp_path / "lines" / "pictures").mkdir(parents=True)
    (tmp_path / "lines" / "pictures" / "1.png").write_bytes(png("blue"))
    json_lines(tmp_path / "lines" / "data.jsonl", [row("a", input_images=["pictures/1.png", "../secret.png"])])
    (tmp_path / "secret.png").write_bytes(png())
    with pytest.raises(DataError, match="outside the folder"):
        prepared(OmniContext(tmp_path / "lines"), tmp_path / "refused")


def test_gedit_bench_v2_is_read_in_both_layouts(tmp_path: Path) -> None:
    def row(key: str, picture: Any, **changes: Any) -> dict[str, Any]:
        return {"key": key, "instruction": f"do {key}", "source_image": picture, **changes}

    dataset_dict(tmp_path / "saved", [row("background_change_000000", struct(png())), row("odd", struct(png()))])
    (tmp_path / "lines" / "images").mkdir(parents=True)
    (tmp_path / "lines" / "images" / "0.png").write_bytes(png())
    json_lines(
        tmp_path / "lines" / "metadata.jsonl", [row("background_change_000000", "images/0.png"), row("odd", "x.png")]
    )
    keys = set()
    for name in ("saved", "lines"):
        found = prepared(GEditBenchV2(tmp_path / name), tmp_path / "bench" / name)
        assert [(case.id, case.task) for case in found.cases] == [("background_change_000000", "background_change")]
        assert reasons(found) == {"odd": "neither a column nor its key 'odd' tells its task"}
        keys.add(found.cases[0].key)
    assert len(keys) == 1
    json_lines(tmp_path / "lines" / "metadata.jsonl", [row("odd", "images/0.png", task="open_set")])
    assert prepared(GEditBenchV2(tmp_path / "lines"), tmp_path / "task").cases[0].task == "open_set"


def hole(box: tuple[int, int, int, int]) -> bytes:
    buffer = io.BytesIO()
    picture = Image.new("RGBA", (12, 8), (9, 9, 9, 255))
    picture.paste((9, 9, 9, 0), box)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_magicbrush_gives_its_dev_turns_with_masks_and_never_its_test_split(tmp_path: Path) -> None:
    def row(name: str, turn: int, mask: bytes | None) -> dict[str, Any]:
        return {
            "img_id": name,
            "turn_index": turn,
            "source_img": struct(png(colour(turn))),
            "mask_img": None if mask is None else struct(mask),
            "instruction": f"turn {turn}",
            "target_img": struct(png(colour(turn + 1))),
        }

    data = tmp_path / "in" / "data"
    rows = [row("7", 1, hole((0, 0, 6, 8))), row("7", 2, png()), row("7", 3, None), row("8", 1, hole((6, 0, 12, 8)))]
    parquet(data / "dev-00000-of-00001.parquet", rows)
    parquet(data / "train-00000-of-00001.parquet", [row("1", 1, None)])
    found = prepared(MagicBrushDev(tmp_path / "in"), tmp_path / "bench")
    assert [case.id for case in found.cases] == ["7_1", "7_inde_2", "7_inde_3", "8_1"]
    assert found.manifest.settings["not_chosen"] == {"split train": 1}
    assert [case.mask is not None for case in found.cases] == [True, False, False, True]
    mask = found.picture(str(found.cases[0].mask))
    assert (mask.getpixel((0, 0)), mask.getpixel((11, 0))) == ((255, 255, 255), (0, 0, 0))
    assert [case.meta["group"] for case in found.cases] == ["7", "7", "7", "8"]
    assert found.cases[0].target == found.cases[1].source
    for turns, ids in (("first", ["7_1", "8_1"]), ("last", ["7_inde_3", "8_1"])):
        chosen = prepared(MagicBrushDev(tmp_path / "in", turns=turns), tmp_path / turns)
        assert [case.id for case in chosen.cases] == ids
        assert chosen.manifest.settings["not_chosen"]["another turn"] == 2
    parquet(data / "test-00000-of-00001.parquet", [row("9", 1, None)])
    with pytest.raises(DataError, match="must not be passed on"):
        list(MagicBrushDev(tmp_path / "in").rows())


@pytest.mark.parametrize(
    ("kind", "file", "row"),
    [
        (
            GEditBench,
            "train.jsonl",
            {"task_type": "t", "key": "k", "instruction": "i", "instruction_language": "en", "input_image": CELL},
        ),
        (EmuEdit, "test.jsonl", {"instruction": "i", "image": CELL, "task": "t", "idx": 1, "hash": "h"}),
        (
            MagicBrushDev,
            "dev.jsonl",
            {"img_id": "1", "turn_index": 1, "source_img": CELL, "instruction": "i", "target_img": CELL},
        ),
        (GEditBenchV2, "metadata.jsonl", {"key": "t_1", "instruction": "i", "source_image": CELL}),
        (OmniContext, "train.jsonl", {"key": "k", "task_type": TASKS[0], "instruction": "i", "input_images": [CELL]}),
    ],
)
def test_a_row_of_json_without_a_column_is_listed_alone(tmp_path: Path, kind: Any, file: str, row: Any) -> None:
    """A JSON file says nowhere which columns it has: each row may lack another one."""
    (tmp_path / "in").mkdir()
    rows = [[1, 2], row, *({name: value for name, value in row.items() if name != lacking} for lacking in kind.needed)]
    (tmp_path / "in" / file).write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "out").mkdir()
    manifest = prepare(kind(tmp_path / "in"), tmp_path / "out")
    assert manifest.cases >= 1
    assert manifest.cases + len(manifest.left_out) == len(rows)
    assert {one.row for one in manifest.left_out} > {1}


def test_a_table_of_csv_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("task_type,instruction\nt,i\n")
    benchmark = GEditBench(tmp_path)
    with pytest.raises(DataError, match="has no column 'key', only task_type, instruction"):
        list(benchmark.rows())
