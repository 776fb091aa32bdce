"""Read a video frame by frame with PyAV, in bounded memory.

A video comes from anywhere, so only formats that hold their own frames are opened: a playlist would make the reader
fetch what it names. Files are opened here and handed over, so that no name is taken for an address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tagmoe.errors import DataError
from tagmoe.pictures import MAX_PIXELS
from tagmoe.sentences import counted, reason_of

FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,gif,m4v,ivf,h264,hevc,obu,mjpeg,nut,mxf,dv,rm,yuv4mpegpipe"
)
"""The formats that are opened, by FFmpeg's names."""
SUFFIXES = frozenset(
    (".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov",
     ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv", ".y4m")
)  # fmt: skip
"""The files of a folder that are taken for videos."""
HIGH_RANGE = {16: "PQ", 18: "HLG"}
"""Transfer curves of high dynamic range, by their numbers in ITU-T H.273."""
TINY = (48, 27)
"""Width and height of the copies in which cuts are found, in pixels."""
HD_LINES = 720
"""Pictures of so many lines that do not say their colours have those of BT.709, others of BT.601."""
BT709 = 1
IO_BYTES = 1 << 20


@dataclass(frozen=True)
class ReadLimits:
    """What is read of one video. pixels: most of a kept frame, which is scaled down. minutes: the rest is not read."""

    pixels: int = 1024 * 1024
    minutes: float = 240.0


@dataclass(frozen=True)
class Frame:
    """A decoded frame. number: from 0. time: seconds after the first frame. tiny: (27, 48, 3) uint8. size: width and
    height in pixels. pixels: makes the upright RGB picture, (H, W, 3) uint8."""

    number: int
    time: float
    tiny: np.ndarray
    size: tuple[int, int]
    pixels: Callable[[], np.ndarray]


def digest_of(path: Path) -> str:
    """SHA-256 of a file. Raises DataError where it cannot be read, is empty or is no file."""
    try:
        if not path.exists():
            raise DataError(f"There is no file {str(path)!r}; check the path.")
        if not path.is_file():
            raise DataError(f"{str(path)!r} is no file; give a video.")
        if not path.stat().st_size:
            raise DataError(f"The video {str(path)!r} is empty; get it again.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte
        raise DataError(f"The video {str(path)!r} cannot be read ({reason_of(error)}).") from None


class Video:
    """An open video. duration: seconds by its header, 0 if it says none. Raises DataError for what is no video here."""

    def __init__(self, path: Path, limits: ReadLimits, container: Any) -> None:
        self._name, self._limits, self._container = str(path), limits, container
        from av.stream import Disposition

        # The cover of a song is a stream of one picture.
        streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise DataError(f"{self._name!r} has sound and no pictures; give a video.")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
        self.duration = float(container.duration or 0) / 1e6
        self.is_whole = True

    def frames(self) -> Iterator[Frame]:
        """The frames in order. Raises DataError where the file is damaged; what came before is good.

        `is_whole` is false afterwards where the limit of minutes was reached.
        """
        import av

        number, first, before = 0, None, -1.0
        scale = _Scaler(self._limits.pixels, float(self._stream.sample_aspect_ratio or 1))
        try:
            for frame in self._container.decode(self._stream):
                self._check_size(frame.width, frame.height)
                if frame.is_corrupt and first is None:
                    # A recording that was cut begins with frames that lack the one they build on.
                    continue
                if frame.is_corrupt:
                    raise DataError(f"{self._name!r} is damaged after {max(before, 0):.1f} s; get it again.")
                curve = HIGH_RANGE.get(int(frame.color_trc))
                if curve is not None:
                    raise DataError(f"{self._name!r} has high dynamic range ({curve}), which is not read; convert it.")
                rate = float(self._stream.average_rate or 25)
                time = number / rate if frame.time is None else float(frame.time)
                first = time if first is None else first
                # Times that stand still or run back, as in files that were cut, still have an order.
                time = max(time - first, before + 1e-6)
                if time > 60 * self._limits.minutes:
                    self.is_whole = False
                    return
                pixels = partial(scale.picture, frame)
                yield Frame(number, time, scale.tiny(frame), scale.size_of(frame), pixels)
                number, before = number + 1, time
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise DataError(
                f"{self._name!r} is damaged after {max(before, 0):.1f} s ({reason_of(error)}); get it again."
            ) from None
        if not number:
            raise DataError(f"{self._name!r} has no frame that can be read; get it again.")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise DataError(
                f"{self._name!r} has frames of {counted(width * height, 'pixel')}; at most {MAX_PIXELS:,} are read."
            )


@contextmanager
def open_video(path: Path, limits: ReadLimits) -> Iterator[Video]:
    """Open a video. Raises DataError for a file that is none, or of a format that is not opened."""
    import av

    with path.open("rb") as file:
        try:
            container = av.open(
                file,
                container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
                buffer_size=IO_BYTES,
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise DataError(f"{str(path)!r} is no video that can be read ({reason_of(error)}).") from None
        with container:
            yield Video(path, limits, container)


class _Scaler:
    """Converts the frames of one video; its converters are made once."""

    def __init__(self, pixels: int, aspect: float) -> None:
        from av.video.reformatter import VideoReformatter

        self._pixels = pixels
        # A shape that no pixel has is a mistake of the file.
        self._aspect = aspect if 0.1 < aspect < 10 else 1.0
        self._small, self._large = VideoReformatter(), VideoReformatter()

    def tiny(self, frame: Any) -> np.ndarray:
        """(27, 48, 3) uint8; not turned."""
        done = self._small.reformat(frame, *TINY, "rgb24", interpolation="AREA", **_colours(frame))
        return np.ascontiguousarray(done.to_ndarray())

    def size_of(self, frame: Any) -> tuple[int, int]:
        """Width and height of the picture of a frame, before it is turned: square pixels, within the limit."""
        width, height = frame.width * self._aspect, float(frame.height)
        scale = min(1.0, (self._pixels / (width * height)) ** 0.5)
        return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))

    def picture(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8, upright."""
        done = self._large.reformat(frame, *self.size_of(frame), "rgb24", interpolation="BICUBIC", **_colours(frame))
        turns = round(int(frame.rotation) / 90) % 4
        return np.ascontiguousarray(np.rot90(done.to_ndarray(), turns))


def _colours(frame: Any) -> dict[str, Any]:
    """The colours of a frame that says none, by the number of its lines."""
    unsaid = int(frame.colorspace) == 2
    return {"src_colorspace": BT709} if unsaid and frame.height >= HD_LINES else {}
