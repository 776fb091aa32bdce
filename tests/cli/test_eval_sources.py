"""`tagmoe eval prepare --from`: a path, a cache of the hub, or a data set of the hub at a named revision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.hub_server import COMMIT, client_of, served
from support.published_tables import dataset_dict, parquet, png, struct

from tagmoe.errors import MissingError, UsageError
from tagmoe.evaluate.benchmarks.registry import BENCHMARKS, Found, locate, open_benchmark
from tagmoe.files.hub import DATA_SUFFIXES, dataset_snapshot

ROWS = [
    {
        "task_type": "subject-add",
        "key": "a",
        "instruction": "add a hat",
        "instruction_language": "en",
        "input_image": struct(png()),
    }
]


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    with served(tmp_path / "repository") as hub, client_of(hub, tmp_path / "home"):
        parquet(hub.files / "data" / "train-00000-of-00001.parquet", ROWS)
        (hub.files / "loader.py").write_text("raise SystemExit")
        (hub.files / "weights.bin").write_bytes(b"x")
        yield hub


def test_a_data_set_of_the_hub_is_fetched_and_its_revision_is_kept(tagmoe, hub: Any, tmp_path: Path) -> None:
    made = tagmoe(
        *("eval", "prepare", "gedit-bench", "--from", "owner/model", "--revision", "main"),
        *("--out", tmp_path / "bench", "--json"),
    )
    assert made.code == 0, made.err
    data = json.loads(made.out)
    assert (data["cases"], data["repository"], data["revision"]) == (1, "owner/model", COMMIT)
    assert data["made_from"] == "owner/model"
    assert f"owner/model at {COMMIT}" in made.err
    assert set(hub.asked) == {"data/train-00000-of-00001.parquet"}, "neither code nor what is no data"
    # The folder in the cache tells what it is, too.
    cached = next((tmp_path / "home").rglob("datasets--owner--model"))
    again = tagmoe("eval", "prepare", "gedit-bench", "--from", cached, "--out", tmp_path / "again", "--json")
    found = json.loads(again.out)
    assert (found["repository"], found["revision"], found["digest"]) == ("owner/model", COMMIT, data["digest"])


def test_nothing_is_fetched_unless_a_revision_is_named(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'owner/model'; for a data set of the hub of that name add --revision"):
        open_benchmark("gedit-bench", "owner/model")
    assert hub.asked == []
    folder = dataset_dict(tmp_path / "here", ROWS)
    assert locate(str(folder), None, ("*.arrow",)) == Found(folder)
    with pytest.raises(UsageError, match="is here, and --revision is of a data set of the hub"):
        locate(str(folder), "main", ("*.arrow",))
    with pytest.raises(UsageError, match="There is no folder or file 'a/b/c'; check the path"):
        locate("a/b/c", "main", ("*.arrow",))
    for revision, words in (("v9", "it has no such revision"), ("main", "it does not exist")):
        with pytest.raises(MissingError, match=words):
            locate("owner/model" if revision == "v9" else "nobody/nothing", revision, ("*.parquet",))


def test_only_data_is_ever_downloaded() -> None:
    for kind in BENCHMARKS.values():
        assert all(pattern.endswith(DATA_SUFFIXES) for pattern in kind.hub_files)
    with pytest.raises(ValueError, match="each must end in one of"):
        dataset_snapshot("owner/model", "main", ["*.py"])


def test_a_benchmark_takes_its_own_options_and_no_others(tmp_path: Path) -> None:
    folder = dataset_dict(tmp_path / "here", ROWS)
    assert open_benchmark("gedit-bench", folder, options={"language": "cn"})[0].settings()["language"] == "cn"
    with pytest.raises(UsageError, match="gedit-bench has no option 'turns'; it has language, subset, picture"):
        open_benchmark("gedit-bench", folder, options={"turns": "first"})
    with pytest.raises(UsageError, match="tagworld has no option 'turns'; it has none"):
        open_benchmark("tagworld", None, options={"turns": "first"})
    for name, kind in BENCHMARKS.items():
        if kind.needs_acceptance:
            with pytest.raises(UsageError, match=r"The licence of .* Add --accept-licence"):
                open_benchmark(name, folder)
    for kind in BENCHMARKS.values():
        assert all("default" in values or "folder" in values for values in kind.options.values())
    free = {name for name, kind in BENCHMARKS.items() if not kind.needs_acceptance}
    assert free == {"tagworld", "gedit-bench", "dreambench-plus", "magicbrush"}
