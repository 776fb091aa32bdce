"""Results of a folder: what belongs together is read, what does not is refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tagmoe.errors import ResultError, TagMoEError, UsageError
from tagmoe.laboratory.ablation.collection import read_collection
from tagmoe.laboratory.ablation.results import FlowByTimestep, Result

Make = Callable[..., Result]
Write = Callable[[Path, Result], Path]


@pytest.fixture
def folder(arms_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(arms_folder, tmp_path / "arms"))


def refused(folder: Path, *parts: str, kind: type[TagMoEError] = ResultError, **options: Any) -> None:
    """Refused in one sentence that holds all parts."""
    with pytest.raises(kind) as caught:
        read_collection(folder, **options)
    assert all(part in str(caught.value) for part in parts), caught.value


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_both_layouts_give_the_same(folder: Path, tmp_path: Path) -> None:
    nested, flat = read_collection(folder), tmp_path / "flat"
    flat.mkdir()
    for result in nested.results():
        result.write(flat / f"{result.arm}-seed-{result.seed}.json")
    assert read_collection(flat) == nested
    assert nested.seeds == (0, 1, 2)
    assert list(nested.arms) == sorted(nested.arms)


def test_known_arms_give_the_order_and_what_is_missing(folder: Path) -> None:
    known = ["moe", "dense", "top-2", "align", "align-frozen", "align-shuffled"]
    found = read_collection(folder, known=known)
    assert list(found.arms) == [arm for arm in known if arm != "top-2"]
    assert found.missing == ("top-2",)
    some = read_collection(folder, known=known, arms=["top-2", "align"])
    assert (list(some.arms), some.missing) == (["align"], ("top-2",))


def test_seeds_are_paired_only_where_both_have_them(folder: Path) -> None:
    shutil.rmtree(folder / "moe" / "seed-1")
    found = read_collection(folder)
    assert found.common_seeds("moe", "align") == (0, 2)
    assert found.missing_seeds("moe") == (1,)
    assert found.missing_seeds("align") == ()
    assert read_collection(folder, seeds=[0]).seeds == (0,)


def test_unknown_arms_are_refused(folder: Path) -> None:
    refused(folder, "unknown arm 'align", "dense, moe", known=["dense", "moe"])
    refused(folder, "no arm 'nope'", "align", kind=UsageError, arms=["nope"])


@pytest.mark.parametrize("left", [("job.json", "log.txt"), ("job.json", ".result.json.9.partial"), ()])
def test_a_half_finished_run_is_refused_unless_it_is_not_asked_for(folder: Path, left: tuple[str, ...]) -> None:
    run = folder / "moe" / "seed-3"
    run.mkdir()
    for name in left:
        (run / name).write_text("{}")
    refused(folder, "seed-3", "half-finished", "--seeds")
    assert "moe" not in read_collection(folder, arms=["dense", "align"]).arms
    assert read_collection(folder, seeds=[0, 1]).seeds == (0, 1)


def test_a_run_that_waits_is_missing_and_not_half_finished(folder: Path) -> None:
    for run in (folder / "moe" / "seed-3", folder / "top-2" / "seed-0"):
        run.mkdir(parents=True)
        (run / "job.json").write_text("{}")
    found = read_collection(folder)
    assert found.seeds == (0, 1, 2)
    assert "top-2" not in found.arms
    assert read_collection(folder, known=[*found.arms, "top-2"]).missing == ("top-2",)


def test_the_bases_are_no_arm(folder: Path) -> None:
    (folder / "base" / "seed-0" / "run").mkdir(parents=True)
    (folder / "cache").mkdir()
    assert "base" not in read_collection(folder).arms


def test_damaged_results_are_refused(folder: Path) -> None:
    path = folder / "moe" / "seed-1" / "result.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    refused(folder, str(path), "cannot be read")
    change_to = json.loads(text)
    del change_to["flow"]
    path.write_text(json.dumps(change_to))
    refused(folder, str(path), "flow")
    path.write_text(text.replace('"format":1', '"format":2'))
    refused(folder, str(path), "format")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"common": "f" * 16}, ("share", "one recipe")),
        ({"versions": {"python": "3.11.9", "tagmoe": "0.1.0", "torch": "2.11.0", "numpy": "2.4.6"}}, ("torch 2.13.0",)),
        ({"versions": {"python": "3.11.9", "tagmoe": "0.1.0", "numpy": "2.4.6"}}, ("torch 2.13.0 and none",)),
        ({"versions": {"python": "3.12.1", "tagmoe": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"}}, ("python 3.11",)),
        ({"seed": 7}, ("seed 7", "where it belongs")),
        ({"arm": "dense"}, ("'dense'", "where it belongs")),
    ],
)
def test_what_does_not_belong_is_refused(folder: Path, fields: dict[str, Any], parts: tuple[str, ...]) -> None:
    path = folder / "moe" / "seed-1" / "result.json"
    change(path, **fields)
    refused(folder, str(path), *parts)


def test_the_patch_level_of_python_does_not_matter(folder: Path, make_result: Make) -> None:
    versions = {**make_result("moe", 1).versions, "python": "3.11.2"}
    change(folder / "moe" / "seed-1" / "result.json", versions=versions)
    assert len(list(read_collection(folder).results())) == 15


def test_other_cases_are_refused(tmp_path: Path, make_result: Make, write_result: Write) -> None:
    write_result(tmp_path, make_result("dense", 0))
    path = write_result(tmp_path, make_result("moe", 0))
    whole = json.loads(path.read_text())
    changed: list[dict[str, Any]] = [
        {"cases": whole["cases"] | {"seed": 4}},
        {"cases": whole["cases"] | {"cfg": 1.0}},
        {
            "cases": whole["cases"]
            | {"held_out_paraphrase": [not flag for flag in whole["cases"]["held_out_paraphrase"]]}
        },
        {"flow": whole["flow"] | {"samples": 8}},
        {"verdicts": whole["verdicts"] | {"face": [None, *whole["verdicts"]["face"][1:-1], 1.0]}},
    ]
    for fields in changed:
        path.write_text(json.dumps(whole | fields))
        refused(tmp_path, "different cases")
    short = {name: values[:-1] for name, values in whole["verdicts"].items()}
    path.write_text(json.dumps(whole | {"verdicts": short}))
    refused(tmp_path, str(path), "one verdict for each of 200 cases")
    flow = FlowByTimestep(timesteps=(0.5,), loss=(), samples=256)
    path.write_text(make_result("moe", 0, flow=flow).model_dump_json())
    refused(tmp_path, str(path), "one flow loss a timestep")


def test_a_run_that_is_there_twice_is_refused(folder: Path) -> None:
    shutil.copy(folder / "moe" / "seed-1" / "result.json", folder / "moe-seed-1.json")
    refused(folder, "two results at seed 1", "moe-seed-1.json")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no results", kind=UsageError)
    refused(tmp_path / "nowhere", "no folder", kind=UsageError)
