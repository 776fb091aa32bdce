"""`--explain` of `edit` and `generate`: the page and its facts, and what is refused before the model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.failing_disk import small_files

from tagmoe.losses import Objective
from tagmoe.routing.tags_right import FILE, TagsRight, checksum
from tagmoe.tags import TaskDescriptor
from tagmoe.world import sample

CASE = sample(0, 0, task="recolour")


@pytest.fixture(scope="module")
def aligned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with random W_tag and H_pred."""
    folder = tmp_path_factory.mktemp("aligned") / "aligned"
    shutil.copytree(model, folder)
    torch.manual_seed(0)
    save_file(Objective(4, 32).state_dict(), folder / "alignment.safetensors")
    return folder


@pytest.fixture
def unloadable(aligned: Path, tmp_path: Path) -> Path:
    """A model folder whose weights are gone: whoever loads it fails with another message than the one expected."""
    folder = tmp_path / "unloadable"
    shutil.copytree(aligned, folder)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


def call(picture: Path, out: Path, model: Path, *more: object) -> list[object]:
    arguments = ["edit", picture, "-p", CASE.instruction, "-o", out, "--model", model, "--steps", 2, "--seed", 3]
    return [*arguments, *more]


def test_an_edit_is_explained_with_predicted_tags_beside_those_of_the_rules(tagmoe, aligned, picture, tmp_path) -> None:
    out, page = tmp_path / "out.png", tmp_path / "page.html"
    outcome = tagmoe(*call(picture, out, aligned, "--explain", page, "--json"))
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["explain"] == str(page)
    assert TaskDescriptor.from_tags(result["rule_tags"]).indices == CASE.tags.indices
    TaskDescriptor.from_tags(result["predicted_tags"]).validate()
    html = page.read_text()
    assert all(f">{tag}</li>" in html for tag in (*result["rule_tags"], *result["predicted_tags"]))
    assert "was not measured for this model" in html
    assert str(tmp_path) not in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "page.html"]


@pytest.mark.slow
def test_explaining_does_not_change_the_picture(tagmoe, aligned, picture, tmp_path) -> None:
    with_page, without = tmp_path / "a.png", tmp_path / "b.png"
    assert tagmoe(*call(picture, with_page, aligned, "--explain", tmp_path / "page.html")).code == 0
    outcome = tagmoe(*call(picture, without, aligned, "--json"))
    assert "explain" not in json.loads(outcome.out)
    assert (np.asarray(Image.open(with_page)) == np.asarray(Image.open(without))).all()


@pytest.mark.slow
def test_figures_of_the_test_set_are_told(tagmoe, aligned, picture, tmp_path) -> None:
    folder = tmp_path / "measured"
    shutil.copytree(aligned, folder)
    TagsRight(200, 0.25, 0.2, 0.3, 0.7, 0.1, 0.6, 500, 12, 3.0, "a command", checksum(folder)).save(folder)
    page = tmp_path / "page.htm"
    assert tagmoe(*call(picture, tmp_path / "out.png", folder, "--explain", page)).code == 0
    assert "exactly right in 25.0 %" in page.read_text()
    (folder / FILE).write_text("{}")
    refused = tagmoe(*call(picture, tmp_path / "new.png", folder, "--explain", tmp_path / "new.html"))
    refused.refused(1, FILE)


@pytest.mark.slow
def test_a_generation_is_explained_too(tagmoe, aligned, tmp_path) -> None:
    arguments = ["generate", "-p", "a red star at the top left", "-o", tmp_path / "out.png", "--model", aligned]
    outcome = tagmoe(*arguments, "--steps", 1, "--explain", tmp_path / "page.html", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["rule_tags"] == ["image generation"]
    assert "one generation explained" in (tmp_path / "page.html").read_text()


def test_without_alignment_weights_there_is_a_page_with_the_reason(tagmoe, model, picture, tmp_path) -> None:
    page = tmp_path / "page.html"
    outcome = tagmoe(*call(picture, tmp_path / "out.png", model, "--explain", page, "--json"))
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["predicted_tags"] is None
    assert "No prediction." in page.read_text()
    assert "has no alignment.safetensors" in page.read_text()


def test_words_outside_the_grammar_have_no_rule(tagmoe, aligned, picture, tmp_path) -> None:
    page = tmp_path / "page.html"
    arguments = ["edit", picture, "-p", "circle circle circle", "-o", tmp_path / "out.png", "--model", aligned]
    outcome = tagmoe(*arguments, "--steps", 1, "--explain", page, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["rule_tags"] is None
    assert "No rule of TagWorld" in page.read_text()


@pytest.mark.slow
def test_a_model_of_another_world_has_no_rules(tagmoe, aligned, picture, tmp_path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(aligned, folder)
    index = json.loads((folder / "model_index.json").read_text()) | {"known_words": None}
    (folder / "model_index.json").write_text(json.dumps(index))
    page = tmp_path / "page.html"
    outcome = tagmoe(*call(picture, tmp_path / "out.png", folder, "--explain", page, "--json"))
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["rule_tags"] is None
    TaskDescriptor.from_tags(result["predicted_tags"]).validate()
    assert "rules know TagWorld only" in page.read_text()


# Refused before the model is loaded -------------------------------------------------------------------------------


def test_a_page_that_cannot_be_written_is_refused_at_once(tagmoe, unloadable, picture, tmp_path) -> None:
    out = tmp_path / "out.png"
    tagmoe(*call(picture, out, unloadable, "--explain", tmp_path / "page.png")).refused(2, "page.png", ".html")
    tagmoe(*call(picture, out, unloadable, "--explain", tmp_path / "no" / "page.html")).refused(2, "no folder")
    folder = tmp_path / "folder.html"
    folder.mkdir()
    tagmoe(*call(picture, out, unloadable, "--explain", folder)).refused(2, "folder", "page file")
    page = tmp_path / "page.html"
    page.write_text("mine")
    tagmoe(*call(picture, out, unloadable, "--explain", page)).refused(2, "page.html", "exists", "--force")
    assert page.read_text() == "mine"
    assert not out.exists()


@pytest.mark.slow
def test_force_replaces_a_page(tagmoe, aligned, picture, tmp_path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    assert tagmoe(*call(picture, tmp_path / "out.png", aligned, "--explain", page, "--force")).code == 0
    assert page.read_text().startswith("<!doctype html>")


def test_a_dense_model_is_refused_at_once(tagmoe, unloadable, picture, tmp_path) -> None:
    config = unloadable / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_moe_blocks": 0}))
    outcome = tagmoe(*call(picture, tmp_path / "out.png", unloadable, "--explain", tmp_path / "page.html"))
    outcome.refused(2, "dense", "'unloadable'", "--explain")


@pytest.mark.parametrize(("experts", "message"), [(3, "3 experts"), (None, "damaged")])
def test_alignment_weights_that_do_not_fit_are_refused_at_once(
    tagmoe, unloadable, picture, tmp_path, experts: int | None, message: str
) -> None:
    file = unloadable / "alignment.safetensors"
    if experts is None:
        file.write_bytes(b"damaged")
    else:
        save_file(Objective(experts, 32).state_dict(), file)
    outcome = tagmoe(*call(picture, tmp_path / "out.png", unloadable, "--explain", tmp_path / "page.html"))
    outcome.refused(1, message)


@pytest.mark.slow
def test_a_page_that_fails_leaves_no_part_of_it(tagmoe, aligned, picture, tmp_path) -> None:
    with small_files(20_000):
        outcome = tagmoe(*call(picture, tmp_path / "out.png", aligned, "--explain", tmp_path / "page.html"))
    assert outcome.code == 1
    assert "page.html' cannot be written (File too large)" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
