"""Records of pairs in both directions, once each, whatever stops the run; damaged and strange files do not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.made_videos import Clip, write_video
from support.nasty_strings import NASTY

from tagmoe.data.check.validate import validate
from tagmoe.data.inverse.invert import Rules, invert
from tagmoe.data.order.rows import rows_by_bucket
from tagmoe.data.store.store import Store
from tagmoe.errors import DataError, UsageError
from tagmoe.factory.video import run as running
from tagmoe.factory.video.checks import Limits, figures_of
from tagmoe.factory.video.ledger import VideoLedger
from tagmoe.factory.video.pairs import Sampling
from tagmoe.factory.video.run import Outcome, Settings, files_of, read_videos
from tagmoe.pictures import load_image

CLIPS = [Clip(2, "pan", "none", seconds=6.0), Clip(704, "still", "away", seconds=6.0), Clip(5, "still", "still")]
SETTINGS = Settings(Sampling(every=2.0, longest=2.0))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{number}.mp4", clip.frames()) for number, clip in enumerate(CLIPS)]


def read(folder: Path, files: list[Path], settings: Settings = SETTINGS, log=lambda text: None) -> Outcome:
    return read_videos(Store.open_or_create(folder), files, settings, log=log)


def records(folder: Path):
    store = Store.open(folder)
    return store.records(range(len(store)))


def content(folder: Path) -> list[tuple]:
    return sorted((one.id, one.operation, one.target.digest, sorted(one.quality.items())) for one in records(folder))


def test_pairs_are_records_in_both_directions_with_their_lineage(clips, tmp_path) -> None:
    found = read(tmp_path, clips)
    assert found.added == len(records(tmp_path)) == 2 * found.kept.total() > 6
    assert found.kept["view"] > 1
    assert found.kept["pose"] + found.kept["action"] > 1
    assert [one.kept.total() for one in found.files][2] == 0, "nothing moves in the third"
    assert found.dropped["still"] >= found.files[2].pairs > 0
    by_id = {record.id: record for record in records(tmp_path)}
    for record in by_id.values():
        number = int(record.origin.split(".")[0])
        assert record.native_task in (("viewpoint",), ("pose", "action"))[number]
        assert record.tags
        assert record.quality["gap"] == pytest.approx(record.quality["end"] - record.quality["time"], abs=0.01)
        assert {"camera", "blur", "same", "repeat", "matches"} < record.quality.keys()
        assert record.origin == f"{number}.mp4#t={record.quality['time']:g},{record.quality['end']:g}"
        if record.operation == "inverse":
            forward = by_id[record.parent or ""]
            assert (record.target.data, record.inputs[0].data) == (forward.inputs[0].data, forward.target.data)
            assert record.root == forward.root
            continue
        assert record.operation == "video"
        for picture, time in ((record.inputs[0], record.quality["time"]), (record.target, record.quality["end"])):
            shown = np.asarray(load_image(picture.data)).astype(int)
            assert np.abs(shown - CLIPS[number].frame(round(time * 12))).mean() < 8
    assert len({record.root for record in by_id.values()}) == 2, "a video is on one side of a split"


def test_pairs_without_words_wait_and_are_not_trained_on(clips, tmp_path) -> None:
    read(tmp_path, clips[:1])
    store = Store.open(tmp_path)
    assert not any(len(rows) for source in rows_by_bucket(store).values() for rows in source.rows.values())
    assert validate(store) == len(store)
    assert not any(len(rows) for source in rows_by_bucket(store).values() for rows in source.rows.values())
    outcome = invert(store, Rules(share=0.5), dry_run=True)
    assert (outcome.made.total(), outcome.already) == (0, len(store) // 2), "each has its inverse"


def test_the_same_call_again_adds_nothing_and_reads_no_frame(clips, tmp_path, monkeypatch) -> None:
    first = read(tmp_path, clips)
    before = content(tmp_path)
    monkeypatch.setattr(running, "open_video", lambda *_: pytest.fail("a video was opened"))
    again = read(tmp_path, clips)
    assert again.added == 0
    assert content(tmp_path) == before
    assert (again.kept, again.dropped, again.pairs) == (first.kept, first.dropped, first.pairs)
    assert all(one.already for one in again.files)
    assert [(one.frames, one.shots) for one in again.files] == [(one.frames, one.shots) for one in first.files]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("stop", ["measure", "after records", "before records"])
def test_a_run_that_was_killed_goes_on_to_the_same_store(clips, tmp_path, monkeypatch, stop) -> None:
    whole = read(tmp_path / "whole", clips)
    monkeypatch.setattr(running, "BATCH_LINES", 3)
    calls = 0

    def stops(call, after: bool = False):
        def run(*given, **more):
            nonlocal calls
            calls += 1
            if after:
                call(*given, **more)
            if calls == (4 if stop == "measure" else 2):
                raise KeyboardInterrupt
            return None if after else call(*given, **more)

        return run

    with monkeypatch.context() as patch:
        if stop == "measure":
            patch.setattr(running, "figures_of", stops(figures_of))
        else:
            patch.setattr(Store, "append", stops(Store.append, after=stop == "after records"))
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path / "broken", clips)
    broken = Store.open(tmp_path / "broken")
    assert len(broken) < len(Store.open(tmp_path / "whole"))
    found = read(tmp_path / "broken", clips)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert (found.kept, found.dropped) == (whole.kept, whole.dropped)


def test_half_a_line_of_a_ledger_is_measured_again(clips, tmp_path) -> None:
    read(tmp_path, clips[:1])
    before = content(tmp_path)
    (path,) = (tmp_path / "videos").glob("*/*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    found = read(tmp_path, clips[:1])
    assert (content(tmp_path), found.added) == (before, 0)
    assert len(VideoLedger(path).seen) == len(lines) - 1
    path.write_bytes(b"rubbish\n" + lines[0])
    with pytest.raises(DataError, match="delete it"):
        read(tmp_path, clips[:1])


def test_files_that_cannot_be_read_are_named_and_the_others_are_read(clips, tmp_path) -> None:
    files = {"empty.mp4": b"", "text.mp4": b"no video", "cut.mp4": clips[0].read_bytes()[:4000]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    said: list[str] = []
    given = [*(tmp_path / name for name in files), tmp_path / "none.mp4", clips[0]]
    found = read(tmp_path / "store", given, log=said.append)
    assert [bool(one.reason) for one in found.files] == [True, True, True, True, False]
    assert found.kept.total() > 0
    assert len(said) == 4
    for name, sentence in zip([*files, "none.mp4"], said, strict=True):
        assert name in sentence
        assert sentence.endswith(".")


def test_a_video_that_breaks_off_keeps_its_first_pairs(tmp_path) -> None:
    path = write_video(tmp_path / "a.mkv", CLIPS[1].frames(), codec="ffv1", pixels="yuv420p")
    data = bytearray(path.read_bytes())
    place = int(0.8 * len(data))
    data[place : place + 30_000] = bytes(np.random.default_rng(0).integers(0, 256, 30_000, np.uint8))
    path.write_bytes(data)
    found = read(tmp_path / "store", [path])
    (one,) = found.failed
    assert "is damaged after" in one.reason
    assert found.kept.total() > 0
    assert read(tmp_path / "store", [path]).added == 0


def test_strange_names_and_twins(clips, tmp_path) -> None:
    names = [f"{text[:60].replace('/', '_')}.mp4" for text in NASTY.values() if "\0" not in text]
    names.append(os.fsdecode(b"\xff\xfe.mp4"))
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_bytes(clips[1].read_bytes())
    found = read(tmp_path / "store", paths)
    assert not found.failed
    assert [one.already for one in found.files] == [False, *[True] * (len(paths) - 1)], "all are one video"
    assert found.added == 2 * found.kept.total()
    paths[-1].write_bytes(clips[0].read_bytes())
    assert read(tmp_path / "store", paths[-1:]).added > 0
    assert any(record.origin.startswith("\ufffd\ufffd.mp4#") for record in records(tmp_path / "store"))


@pytest.mark.slow
def test_a_copy_in_another_quality_is_a_repeat_and_other_videos_are_none(clips, tmp_path) -> None:
    copy = write_video(tmp_path / "copy.mp4", CLIPS[1].frames(), crf="30")
    first = read(tmp_path / "store", [clips[1]])
    # the second frames are drawn anew for another file; where they fall on the same times the pair is a repeat
    again = read(tmp_path / "store", [copy], Settings(Sampling(every=1.0, shortest=1.0, longest=1.0)))
    plain = read(tmp_path / "other", [copy], Settings(Sampling(every=1.0, shortest=1.0, longest=1.0)))
    assert plain.kept.total() > 0
    assert first.dropped["repeat"] == plain.dropped["repeat"] == 0
    same = read(tmp_path / "both", [clips[1], copy], Settings(Sampling(every=1.0, shortest=1.0, longest=1.0)))
    assert same.dropped["repeat"] >= plain.kept.total() - 1
    assert again.files[0].pairs == plain.files[0].pairs


def test_filters_can_be_set_and_other_settings_are_another_run(clips, tmp_path) -> None:
    strict = Settings(SETTINGS.sampling, Limits.of({"blur": "0.01"}))
    found = read(tmp_path, clips[:1], strict)
    assert (found.kept.total(), set(found.dropped)) == (0, {"blur"})
    assert read(tmp_path, clips[:1]).added > 0
    off = Settings(SETTINGS.sampling, Limits.of({"still": "off"}))
    assert read(tmp_path, clips[2:], off).kept.total() > 0


def test_folders_are_searched_and_licences_are_heeded(clips, tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "B.MP4").write_bytes(clips[0].read_bytes())
    (tmp_path / "a.txt").write_text("no video")
    assert files_of([tmp_path, clips[1]]) == [tmp_path / "deep" / "B.MP4", clips[1]]
    (tmp_path / "deep" / "B.MP4").unlink()
    with pytest.raises(UsageError, match="no video file"):
        files_of([tmp_path])
    with pytest.raises(UsageError, match="no derivatives"):
        read(tmp_path / "store", clips, Settings(licence_name="CC-BY-ND-4.0"))


def test_a_store_that_another_process_writes_is_refused(clips, tmp_path) -> None:
    store = Store.create(tmp_path / "store")
    with store.writing(), pytest.raises(DataError, match=r"Another process is writing|already"):
        read(tmp_path / "store", clips)
