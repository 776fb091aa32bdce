"""Packaged recipes go by name, from any folder; a wrong name gets the near one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tagmoe.config import RECIPES, find_arms, find_recipe, load_config, packaged_arms, packaged_recipes
from tagmoe.errors import ConfigError


def test_every_packaged_recipe_is_listed_with_its_minutes_and_one_line(tagmoe) -> None:
    rows = json.loads(tagmoe("train", "--list", "--json").out)["recipes"]
    tagworld = ["tagworld/components", "tagworld/quick", "tagworld/release"]
    full = [f"qwen-image/{name}" for name in ("full-64gpu", "full-8gpu", "lora-1gpu-24gb", "moe-1gpu")]
    path = ["full_path/dense", "full_path/unified"]
    assert [row["name"] for row in rows] == [*path, "photoworld/editor", *full, *tagworld]
    assert all(len(row["about"]) > 20 and "\n" not in row["about"] for row in rows)
    # Nobody has run those of the full size.
    assert all((row["minutes"] or 0) >= 1 for row in rows if row["name"] not in full)
    assert {row["minutes"] for row in rows if row["name"] in full} == {None}
    lines = tagmoe("train", "--list").out.splitlines()
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]


@pytest.mark.parametrize("given", ["tagworld/quick", "tagworld/quick.yaml", "recipes/tagworld/quick.yaml"])
def test_a_name_or_the_path_in_a_checkout_finds_the_packaged_file(given: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path(given)) == RECIPES / "tagworld" / "quick.yaml"
    assert load_config(find_recipe(Path(given))).unified.steps > 0


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tagworld" / "quick").mkdir(parents=True)
    (tmp_path / "tagworld" / "quick.yaml").write_text("seed: 0\n")
    assert find_recipe(Path("tagworld/quick.yaml")) == Path("tagworld/quick.yaml")
    # a folder is no recipe
    assert find_recipe(Path("tagworld/quick")) == RECIPES / "tagworld" / "quick.yaml"


@pytest.mark.parametrize(("given", "near"), [("tagworld/quik", "quick"), ("quick", "quick"), ("relase", "release")])
def test_a_wrong_name_gets_the_near_one(tagmoe, given: str, near: str) -> None:
    tagmoe("train", given).refused(2, f"There is no recipe {given!r}; did you mean 'tagworld/{near}'?")


def test_what_is_near_to_nothing_gets_the_list(tagmoe) -> None:
    tagmoe("train", "elsewhere").refused(2, "'elsewhere'", "tagmoe train --list")
    tagmoe("train").refused(2, "No recipe is given", "tagmoe train --list")


def test_arms_go_by_name_too(tagmoe, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arms = ("tagworld/ablation", "tagworld/conflict")
    assert packaged_arms() == {name: RECIPES / name for name in arms}
    assert find_arms(Path("recipes/tagworld/ablation")) == find_arms(Path("tagworld/ablation"))
    assert not any(name.startswith("tagworld/ablation") for name in packaged_recipes())
    tagmoe("ablation", "run", "tagworld/ablaton", "--out", "x").refused(2, "did you mean 'tagworld/ablation'?")
    tagmoe("ablation", "run", "tagworld/ablation", "--out", "x", "--arms", "none").refused(2, "Unknown arm none", "moe")
    with pytest.raises(ConfigError, match=r"a folder with a common\.yaml, or the name tagworld/ablation"):
        find_arms(Path("elsewhere"))
