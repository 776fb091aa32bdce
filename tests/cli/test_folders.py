"""Folders that a command reads or replaces: nothing is lost, and a malformed model is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from tagmoe.cli import output
from tagmoe.errors import TagMoEError, UsageError
from tagmoe.files import claim


def test_upcycling_into_the_source_is_refused(tagmoe, model, tmp_path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model / "transformer", source)
    before = sorted(path.name for path in source.rglob("*"))
    tagmoe("upcycle", source, source / "inner", "--num-moe-blocks", 1).refused(2, "lie in one another")
    tagmoe("upcycle", source, source, "--num-moe-blocks", 1, "--force").refused(2, "lie in one another")
    (tmp_path / "link").symlink_to(source)
    tagmoe("upcycle", source, tmp_path / "link" / "inner", "--num-moe-blocks", 1).refused(2, "lie in one another")
    assert sorted(path.name for path in source.rglob("*")) == before


def header(data: object) -> bytes:
    text = json.dumps(data).encode()
    return struct.pack("<Q", len(text)) + text


WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        (WEIGHTS, header([1, 2]), "damaged"),
        (WEIGHTS, header({"a": 3}), "damaged"),
        (WEIGHTS, header({"a": {}}), "damaged"),
        (WEIGHTS, header({"a": {"shape": ["x"]}}), "damaged"),
        (WEIGHTS, b"\xff" * 8 + b"{", "damaged"),
        (WEIGHTS, b"", "damaged"),
        ("model_index.json", b"[]", "no JSON object"),
        ("transformer/config.json", b"[" * 100_000, "damaged"),
    ],
)
def test_info_of_a_malformed_model_names_the_file(tagmoe, model, tmp_path, name, content, part) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(model, folder)
    (folder / name).write_bytes(content)
    tagmoe("info", "model", "--model", folder).refused(1, Path(name).name, part)


def test_info_of_a_model_with_a_strange_card_and_words_still_answers(tagmoe, model, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(model, folder)
    (folder / "README.md").write_bytes(b"# caf\xe9")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"known_words": 7}))
    outcome = tagmoe("info", "model", "--model", folder)
    assert outcome.code == 0, outcome.err
    assert "# caf" in outcome.out


@pytest.mark.parametrize("name", [".", "..", "../here", "/"])
def test_the_folder_that_a_command_runs_in_is_not_replaced(tagmoe, model, tmp_path, monkeypatch, name) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tagmoe("demo", "--out", name, "--force", "--model", model).refused(2, "runs in")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_result_that_cannot_be_put_in_place_is_kept_beside_the_old_one(tmp_path, monkeypatch) -> None:
    target, rename = tmp_path / "demo", os.rename
    target.mkdir()
    (target / "report.html").write_text("old")

    def fail(source: Path, place: Path) -> None:
        if Path(place) == target and Path(source).suffix == ".partial":
            raise OSError(18, "Invalid cross-device link")
        rename(source, place)

    output.check_output_folder(target, force=True, ours=("report.html",))
    monkeypatch.setattr(claim.os, "rename", fail)
    with pytest.raises(TagMoEError, match="cross-device"), output.new_folder(target) as folder:
        (folder / "report.html").write_text("new")
    output.release_outputs()
    assert (target / "report.html").read_text() == "old"
    (kept,) = (path for path in tmp_path.iterdir() if path != target)
    assert (kept / "report.html").read_text() == "new"


def test_what_came_between_the_check_and_the_claim_is_not_replaced(tmp_path, monkeypatch) -> None:
    """Another command ends in that moment, and its name is free again."""
    taken = claim.claim

    def late(path: Path) -> claim.Claim:
        path.write_text("theirs")
        return taken(path)

    monkeypatch.setattr(output, "claim", late)
    with pytest.raises(UsageError, match="exists; choose another name or add --force"):
        output.check_output_file(tmp_path / "out.png", force=False)
    output.release_outputs()
    assert (tmp_path / "out.png").read_text() == "theirs"
