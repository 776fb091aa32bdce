"""Videos are read frame by frame, upright and in order; what is none is one sentence, and nothing is fetched."""

from __future__ import annotations

import os
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from support.made_videos import Clip, write_video

from tagmoe.errors import DataError
from tagmoe.factory.video import reading
from tagmoe.factory.video.reading import Frame, ReadLimits, digest_of, open_video

CLIP = Clip(1, "pan", "away", seconds=1.5)


def read(path: Path, limits: ReadLimits | None = None) -> list[Frame]:
    with open_video(path, limits or ReadLimits()) as video:
        return list(video.frames())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", CLIP.frames())


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mkv", "ffv1", "bgr0"),
        ("avi", "mjpeg", "yuvj420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_frames_are_those_that_were_written_also_when_they_are_asked_for_later(tmp_path, suffix, codec, pixels) -> None:
    path = write_video(tmp_path / f"a.{suffix}", CLIP.frames(), codec=codec, pixels=pixels)
    frames = read(path)
    assert [frame.number for frame in frames] == list(range(len(CLIP)))
    assert np.allclose([frame.time for frame in frames], np.arange(len(CLIP)) / 12, atol=2e-3)
    for number in (0, 7, len(CLIP) - 1):
        # each is nearer to its own original than to those beside it
        shown = frames[number].pixels().astype(int)
        apart = [np.abs(shown - CLIP.frame(other)).mean() for other in range(len(CLIP))]
        assert int(np.argmin(apart)) == number
        assert apart[number] < (0.5 if codec == "ffv1" else 10)
    assert frames[0].tiny.shape == (27, 48, 3)


def test_a_large_frame_is_scaled_down_and_a_small_one_is_not(clip) -> None:
    assert read(clip)[0].pixels().shape == (192, 320, 3)
    (frame, *_) = read(clip, ReadLimits(pixels=160 * 96))
    assert frame.pixels().shape == (96, 160, 3)
    assert frame.size == (160, 96)


def test_minutes_are_a_limit_that_is_said(clip) -> None:
    with open_video(clip, ReadLimits(minutes=1 / 60)) as video:
        assert len(list(video.frames())) == 13
        assert not video.is_whole
    with open_video(clip, ReadLimits()) as video:
        assert len(list(video.frames())) == len(CLIP)
        assert video.is_whole
        assert video.duration == pytest.approx(1.5, abs=0.1)


def test_pixels_that_are_not_square_are_made_square(tmp_path) -> None:
    narrow = (frame[:, ::2] for frame in CLIP.frames())
    path = write_video(tmp_path / "wide.mp4", narrow, **{"x264-params": "sar=2/1"})
    shown = read(path)[3].pixels()
    assert shown.shape == (192, 320, 3)
    assert np.abs(shown.astype(int) - CLIP.frame(3)).mean() < 12


def test_a_turned_video_is_upright(tmp_path, clip) -> None:
    """A phone writes its frames as its sensor lies, and the turn into the header."""
    data = bytearray(clip.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    assert data[place : place + 36] == plain
    data[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 2**30)
    (tmp_path / "turned.mp4").write_bytes(data)
    shown = read(tmp_path / "turned.mp4")[5].pixels()
    assert shown.shape == (320, 192, 3)
    # a turn by a quarter to the right
    assert np.abs(shown.astype(int) - np.rot90(read(clip)[5].pixels(), -1)).mean() < 1


def test_what_is_no_video_is_one_sentence(tmp_path, clip) -> None:
    with pytest.raises(DataError, match="There is no file"):
        digest_of(tmp_path / "none.mp4")
    with pytest.raises(DataError, match="is no file"):
        digest_of(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DataError, match="is empty"):
        digest_of(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="is no video that can be read"):
        read(tmp_path / "text.mp4")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(DataError, match="is no video that can be read"):
        read(tmp_path / "sound.wav")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(DataError, match="has sound and no pictures"):
        read(tmp_path / "sound.mp4")
    cover = write_video(tmp_path / "cover.mp4", [CLIP.frame(0)], codec="mjpeg", pixels="yuvj420p")
    with av.open(str(cover)) as given, av.open(str(tmp_path / "song.mp4"), "w") as container:
        picture = container.add_stream_from_template(given.streams.video[0])
        picture.disposition = Disposition.attached_pic
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = picture
                container.mux(packet)
    with pytest.raises(DataError, match="has sound and no pictures"):
        read(tmp_path / "song.mp4")


def test_a_damaged_video_gives_what_came_before_the_damage(tmp_path, clip) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"is no video that can be read|is damaged"):
        read(tmp_path / "cut.mp4")
    whole = write_video(tmp_path / "whole.mkv", CLIP.frames(), codec="ffv1", pixels="yuv420p").read_bytes()
    broken = bytearray(whole)
    middle = len(whole) // 2
    broken[middle : middle + 20_000] = bytes(np.random.default_rng(0).integers(0, 256, 20_000, np.uint8))
    (tmp_path / "broken.mkv").write_bytes(broken)
    numbers = []
    with open_video(tmp_path / "broken.mkv", ReadLimits()) as video:
        frames = (numbers.append(frame.number) for frame in video.frames())
        with pytest.raises(DataError, match=r"is damaged after \d\.\d s"):
            list(frames)
    assert 3 < len(numbers) < len(CLIP)


def test_a_playlist_is_not_followed_and_a_name_is_no_address(tmp_path, clip, monkeypatch) -> None:
    """Such files make a reader fetch what they name."""
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{clip}'\n",
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{clip}\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="is no video that can be read"):
            read(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "pipe:0", "-", "a\nb.mp4", os.fsdecode(b"\xff\xfe.mp4")):
        Path(name).write_bytes(clip.read_bytes())
        assert len(read(Path(name))) == len(CLIP)


def test_a_frame_of_too_many_pixels_is_refused_before_it_is_decoded(clip, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MAX_PIXELS", 320 * 192 - 1)
    with pytest.raises(DataError, match="61,440 pixels; at most 61,439"):
        read(clip)


def test_high_dynamic_range_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "hdr.mp4"
    write_video(path, CLIP.frames(), **{"x264-params": "transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"})
    with pytest.raises(DataError, match=r"has high dynamic range \(PQ\)"):
        read(path)
