"""`tagmoe data video`: what it prints and writes, its page, its exit codes, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fault_server import fault_server
from support.html_page import Page
from support.made_videos import Clip, write_video

from tagmoe import extras
from tagmoe.data.store.store import Store

NASTY = "<img src=x onerror=alert(1)>&\u202e.mp4"
WORDS = {"same_scene": True, "same_subject": True, "change": "camera", "forward": "go left", "backward": "go right"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / NASTY, Clip(2, "pan", "none", seconds=4.0).frames())
    write_video(folder / "still.mp4", Clip(5, "still", "still", seconds=3.0).frames())
    return folder


def test_it_fills_a_store_writes_a_page_and_waits_for_a_model(tagmoe, clips, tmp_path) -> None:
    command = ("data", "video", clips, tmp_path / "s", "--every", "1", "--longest", "1")
    done = tagmoe(*command, "--json", "--out", tmp_path / "page.html")
    data = json.loads(done.out)
    assert done.code == 0, done.err
    assert (data["failed"], data["kinds"], data["records"]) == (0, {"view": data["kept"]}, 2 * data["kept"])
    assert data["added"] == data["records"] > 2
    assert data["words"] == {"waiting": data["kept"]}
    assert data["dropped"]["still"] == data["files"][1]["pairs"] > 0
    assert data["limits"]["blur"] == 0.5
    shown = Page((tmp_path / "page.html").read_text())
    assert "img src=x onerror" in shown.text
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in shown.addresses)
    assert shown.names.count("img") == 2 * (data["kept"] + min(3, data["dropped"]["still"]))
    again = tagmoe(*command)
    assert "2 videos had been read before" in again.out
    assert "added: 0 records" in again.out
    with fault_server(rules=[{"content": WORDS | {"certain": True}}]) as server:
        asked = tagmoe(*command, "--json", "--endpoint", server.url, "--model", "tiny-vlm")
    data = json.loads(asked.out)
    assert (asked.code, data["words"], data["added"]) == (0, {"worded": data["kept"]}, 0), asked.err
    store = Store.open(tmp_path / "s")
    assert {record.instruction for record in store.records(range(len(store)))} == {"go left", "go right"}
    assert tagmoe("data", "validate", tmp_path / "s", "--workers", "1").code == 0


def test_a_file_that_is_none_is_named_and_the_exit_code_is_1(tagmoe, clips, tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    done = tagmoe("data", "video", tmp_path / "text.mp4", clips / "still.mp4", tmp_path / "s", "--json")
    data = json.loads(done.out)
    assert (done.code, data["failed"], data["kept"]) == (1, 1, 0)
    assert "text.mp4' is no video that can be read" in done.err
    assert data["files"][0]["reason"] in done.err
    assert data["files"][1]["reason"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--check", "blr=1"), "There is no check 'blr'"),
        (("--check", "blur=sharp"), "The check 'blur' is set to 'sharp'"),
        (("--check", "cuts=3"), "give on or off"),
        (("--shortest", "3", "--longest", "2"), "exchange them"),
        (("--every", "0"), "--every"),
        (("--frame-pixels", "1"), "--frame-pixels"),
        (("--out", "page.txt"), ".html"),
        (("--model", "m", "--limit", "3"), "No vision-language model is given"),
        (("--limit", "3"), "--limit is for a model"),
        (("--licence", "CC-BY-NC-4.0"), "--accept-licence CC-BY-NC-4.0"),
    ],
)
def test_wrong_options_are_refused_and_leave_no_store(tagmoe, clips, tmp_path, change, sentence) -> None:
    tagmoe("data", "video", clips, tmp_path / "s", *change).refused(2, sentence)
    assert not (tmp_path / "s" / "records.lance").exists()


def test_an_empty_folder_and_a_licence_without_derivatives(tagmoe, clips, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    tagmoe("data", "video", tmp_path / "empty", tmp_path / "s").refused(2, "has no video file")
    licence = ("--licence", "CC-BY-ND-4.0", "--accept-licence", "CC-BY-ND-4.0")
    tagmoe("data", "video", clips, tmp_path / "s", *licence).refused(2, "allows no derivatives")


def test_without_the_extra_the_install_line_is_named(tagmoe, clips, tmp_path, monkeypatch) -> None:
    there = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "av" else there(name))
    tagmoe("data", "video", clips, tmp_path / "s").refused(3, "needs av", "tagmoe[video]")
