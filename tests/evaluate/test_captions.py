"""Captions by a model over a real connection: raw answers kept, nothing asked twice, no caption where none came."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.fault_server import Server, fault_server
from support.prepared_benchmarks import anchor_run, tagworld_bench

from tagmoe.cli import run as cli
from tagmoe.errors import DataError, UsageError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, prepare
from tagmoe.evaluate.benchmarks.cases import CAPTIONS, Case, digest_of, read_prepared
from tagmoe.evaluate.captions import CAPTIONED, WORDS, Captioned, Captioning, caption_targets, question_of
from tagmoe.evaluate.comparison.labels import labelled
from tagmoe.evaluate.metrics.clip import Clip
from tagmoe.evaluate.run_folder import read_run
from tagmoe.pictures import load_image
from tagmoe.vlm.question import Attachment
from tagmoe.vlm.servers import ChatServers


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fault_server() as running:
        yield running


@pytest.fixture
def asked(server: Server) -> Server:
    """The server, which has been asked nothing yet and answers everything."""
    server.clear()
    server.set(rules=[], faults={}, models=["tiny-vlm", "other"])
    return server


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A case of each of TagWorld's tasks; they have targets and no captions."""
    return tagworld_bench(tmp_path / "bench").folder


def captioned(bench: Path, server: Server, model: str = "tiny-vlm", **options: Any) -> Captioning:
    return caption_targets(bench, ChatServers([server.url], model, attempts=1), **options)


class Published:
    """A source with an instruction, one with a caption of the data set, and a case without a picture."""

    name, about, licence = "published", "three cases", "CC0-1.0"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def rows(self) -> Iterator[Row]:
        for name in ("edit", "known", "drawn"):
            yield Row(name, {})

    def case(self, row: Row, pictures: Pictures) -> Case:
        known: dict[str, Any] = {"target_caption": "a cup", "caption_origin": "dataset"} if row.id == "known" else {}
        if row.id != "drawn":
            known["source"] = pictures.add((self._folder / "picture.png").read_bytes(), "source")
        return Case(bench=self.name, id=row.id, task="edit", instruction="turn it into a lemon", **known)

    def settings(self) -> Mapping[str, Any]:
        return {}

    def made_from(self) -> str:
        return self._folder.name


@pytest.fixture
def published(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "picture.png")
    (tmp_path / "published").mkdir()
    prepare(Published(tmp_path), tmp_path / "published")
    return tmp_path / "published"


def test_the_cases_get_the_captions_and_the_raw_answers_stay(bench: Path, asked: Server) -> None:
    before = read_prepared(bench)
    made = captioned(bench, asked)
    after = read_prepared(bench)
    assert (made.captions, dict(made.asked), made.failed) == (len(before.cases), {"ok": len(before.cases)}, ())
    assert {case.caption_origin for case in after.cases} == {"generated"}
    rows = [Captioned.model_validate_json(line) for line in (bench / f"{CAPTIONED}.jsonl").read_text().splitlines()]
    assert [row.id for row in rows] == [case.id for case in after.cases]
    for row, case in zip(rows, after.cases, strict=True):
        assert json.loads(row.text) == {"caption": row.caption}
        assert case.target_caption == row.caption
    assert made.digest == after.manifest.digest != before.manifest.digest
    assert after.manifest.settings["captions_by"]["model"] == "tiny-vlm", "a report says who wrote them"
    assert read_prepared(bench, captions=False).cases == before.cases
    measure = next(one for one in Clip.measures if one.name == "clip_cap")
    assert [labelled(one, measure).name for one in (before, after)] == ["clip_cap", "clip_cap@generated"]
    counts = asked.counts()
    assert (counts["requests"], counts["images"], counts["schemas"]) == (len(rows),) * 3


def test_nothing_is_asked_twice_and_another_model_is_asked_anew(bench: Path, asked: Server) -> None:
    first = captioned(bench, asked, limit=1, tasks=["add", "recolour"])
    assert (first.captions, sum(first.asked.values())) == (2, 2)
    every = captioned(bench, asked)
    assert (every.known, every.captions) == (2, len(read_prepared(bench).cases))
    kept = [(bench / name).read_bytes() for name in (f"{CAPTIONED}.jsonl", CAPTIONS)]
    again = captioned(bench, asked)
    assert (dict(again.asked), again.digest) == ({}, every.digest)
    assert kept == [(bench / name).read_bytes() for name in (f"{CAPTIONED}.jsonl", CAPTIONS)]
    assert asked.counts()["requests"] == every.captions
    other = captioned(bench, asked, "other")
    assert (sum(other.asked.values()), other.known) == (every.captions, 0)
    assert read_prepared(bench).manifest.settings["captions_by"]["model"] == "other"


def test_a_server_that_dies_costs_nothing_that_was_answered(bench: Path, asked: Server, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(bench, whole)
    captioned(whole, asked)
    asked.clear()
    asked.set(rules=[{"after": 4, "fault": "500"}])
    with pytest.raises(DataError, match=r"20 cases in a row got no answer.*run the same command again"):
        captioned(bench, asked, in_flight=1)
    assert not (bench / CAPTIONS).exists(), "half of the captions are none"
    asked.set(rules=[])
    ended = captioned(bench, asked, in_flight=3)
    assert (ended.known, ended.failed) == (4, ())
    for name in (f"{CAPTIONED}.jsonl", CAPTIONS):
        assert (bench / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("rule", "status", "reason"),
    [
        ({"content": {"caption": " \n "}}, "invalid", "The caption is empty."),
        ({"content": "A red cup."}, "invalid", ""),
        ({"content": {"caption": "x" * 401}}, "invalid", ""),
        ({"status": 400, "body": {"error": {"message": "no"}}}, "refused", "no"),
    ],
)
def test_an_answer_that_is_no_caption_is_listed_and_never_used(
    bench: Path, asked: Server, rule: dict[str, Any], status: str, reason: str
) -> None:
    case = read_prepared(bench).cases[3]
    picture = question_of(case, read_prepared(bench), 1 << 20).parts[0]
    assert isinstance(picture, Attachment)
    asked.set(rules=[{"picture": picture.digest, **rule}])
    made = captioned(bench, asked)
    assert [(name, found) for name, found, _ in made.failed] == [(case.id, status)]
    assert reason in made.failed[0][2]
    bad = next(one for one in read_prepared(bench).cases if one.id == case.id)
    assert (bad.target_caption, bad.caption_origin, bad.key) == (None, None, case.key)
    assert made.captions == len(read_prepared(bench).cases) - 1


def test_a_case_without_a_target_is_asked_by_its_source_and_instruction(published: Path, asked: Server) -> None:
    made = captioned(published, asked)
    assert (made.captions, made.had, made.not_applicable, made.failed) == (1, 1, 1, ())
    (seen,) = asked.counts()["keys"].values()
    assert seen["text"] == WORDS["edit"].replace("{instruction}", "turn it into a lemon")[-200:]
    cases = {case.id: case for case in read_prepared(published).cases}
    assert (cases["known"].target_caption, cases["known"].caption_origin) == ("a cup", "dataset")
    assert cases["edit"].caption_origin == "generated"
    assert cases["drawn"].target_caption is None


def test_the_target_is_what_is_shown_and_never_larger_than_asked_for(bench: Path) -> None:
    prepared = read_prepared(bench)
    case = next(one for one in prepared.cases if one.source is not None)
    target = prepared.picture(str(case.target))
    for pixels in (1 << 20, 100):
        shown, words = question_of(case, prepared, pixels).parts
        assert isinstance(shown, Attachment)
        picture = load_image(shown.data)
        assert picture.width * picture.height <= pixels
        assert (picture.tobytes() == target.tobytes()) is (pixels > 100)
        assert words == WORDS["target"]
        assert case.instruction not in str(words), "a caption is of the picture, not of the request"


def test_captions_of_other_cases_are_refused(bench: Path, asked: Server, tmp_path: Path) -> None:
    captioned(bench, asked)
    run = anchor_run(read_prepared(bench), "copy", tmp_path / "copy")
    other = tagworld_bench(tmp_path / "other", seed=1).folder
    shutil.copy(bench / CAPTIONS, other)
    with pytest.raises(DataError, match="is of other cases; delete it, and run tagmoe eval caption again"):
        read_prepared(other)
    (other / CAPTIONS).write_text("{}")
    with pytest.raises(DataError, match="is not one of this version"):
        read_prepared(other)
    (bench / CAPTIONS).unlink()
    with pytest.raises(UsageError, match="is of other cases"):
        read_run(run.folder, read_prepared(bench))


def test_the_command(bench: Path, asked: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "caption", str(bench), "--endpoint", asked.url, "--model", "tiny-vlm"]
    assert cli([*words, "--tasks", "add", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == {
        "benchmark": str(bench),
        "model": "tiny-vlm",
        "captions": 1,
        "asked": {"ok": 1},
        "known": 0,
        "had": 0,
        "not_applicable": 0,
        "failures": [],
        "digest": read_prepared(bench).manifest.digest,
    }
    asked.set(rules=[{"content": {"caption": ""}}])
    assert cli(words) == 1
    out, err = capsys.readouterr()
    total = len(read_prepared(bench).cases)
    assert out == f"{bench}\n"
    assert f"1 caption by tiny-vlm; of {total} cases {total - 1} asked now, 1 known, 0 with a caption" in err
    assert "invalid (The caption is empty.)" in err
    for bad in (["--pixels", "0"], ["--limit", "0"], ["--concurrency", "0"], ["--tasks", "fly"]):
        assert cli([*words, *bad]) == 2
        assert capsys.readouterr().out == ""


def test_every_word_of_the_questions_is_known_by_the_basis(bench: Path, asked: Server) -> None:
    """Another wording or size asks again: the digest is of both."""
    first = captioned(bench, asked, limit=1, tasks=["add"])
    smaller = captioned(bench, asked, limit=1, tasks=["add"], pixels=100)
    assert (first.known, smaller.known) == (0, 0)
    assert len({row.basis for row in _rows(bench)}) == 1, "answers to other questions are dropped"
    assert digest_of(WORDS) != digest_of({**WORDS, "target": "x"})


def _rows(bench: Path) -> list[Captioned]:
    return [Captioned.model_validate_json(line) for line in (bench / f"{CAPTIONED}.jsonl").read_text().splitlines()]
