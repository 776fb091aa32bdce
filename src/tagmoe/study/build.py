"""Build what clients get: the page, and pictures that tell nothing of their method but their pixels.

Every picture of a case has the same size, format, chunks and number of bytes, and a random name. The key stays with the
people who run the study.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from tagmoe.config.part import Part
from tagmoe.errors import DataError
from tagmoe.evaluate.benchmarks.cases import read_part
from tagmoe.files.atomic import write_whole
from tagmoe.pictures import png_of
from tagmoe.report.pages import page_environment
from tagmoe.study.collect import load_picture
from tagmoe.study.manifest import KEY, LINKS, PUBLIC, Manifest, StudyCase

SIDE = 768
"""The longest side of a picture on the page, in pixels."""
TOKEN_BYTES = 16
PAGE, SCRIPT, STYLE, TEXTS, PICTURES = "index.html", "study.js", "study.css", "texts.json", "pictures"
TIME = 1_000_000_000
"""The date of every file, in seconds of the Unix epoch: the real one would tell in which order they were written."""
_PADDING = b"paDd"
"""A chunk that readers skip: ancillary, private, safe to copy."""


class Key(Part):
    """What the random names stand for. names[case][0] is the source ("" for none), [1 + m] the output of method m.

    study: the digest of the manifest. tokens: one for each person, in the order of the sheets.
    """

    format: int = 1
    study: str
    names: tuple[tuple[str, ...], ...]
    tokens: tuple[str, ...]
    reframed: dict[str, int] = Field(default_factory=dict)


def read_key(study: Path, manifest: Manifest) -> Key:
    """The key of a built study. Raises DataError where it is gone, or belongs to another plan."""
    key = read_part(study / KEY, Key, "run tagmoe study build")
    if key.study != manifest.digest:
        raise DataError(f"{str(study / KEY)!r} was built for another plan; run tagmoe study build again.")
    return key


def build(
    study: Path, manifest: Manifest, folder: Path, *, side: int = SIDE, done: Callable[[int], None] = lambda count: None
) -> Key:
    """Write the public folder, the key and the links into `folder`. done: called with how many cases are done.

    Raises DataError for a picture that is gone or was changed.
    """
    public = folder / PUBLIC
    (public / PICTURES).mkdir(parents=True)
    taken: set[str] = set()
    names, reframed = [], dict.fromkeys(manifest.names, 0)
    for place, case in enumerate(manifest.cases, 1):
        frame = frame_of(case, side)
        outputs = [load_picture(output, study) for output in case.outputs]
        given = [None if case.source is None else load_picture(case.source, study), *outputs]
        for name, image in zip(manifest.names, outputs, strict=True):
            reframed[name] += not _same_shape(image.size, frame)
        files_ = [None if image is None else png_of(framed(image, frame)) for image in given]
        length = max(len(data) for data in files_ if data is not None) + 12
        kept = [""] * len(files_)
        # In a random order: where a file lies on the disk then says nothing of its method.
        for number in secrets.SystemRandom().sample(range(len(files_)), len(files_)):
            data = files_[number]
            if data is not None:
                kept[number] = _keep(padded(data, length), public, taken)
        names.append(tuple(kept))
        done(place)
    _write_page(public, manifest)
    for path in public.rglob("*"):
        os.utime(path, (TIME, TIME))
    tokens = tuple(secrets.token_urlsafe(TOKEN_BYTES) for _ in range(manifest.people))
    key = Key(study=manifest.digest, names=tuple(names), tokens=tokens, reframed=reframed)
    write_whole(folder / KEY, key.model_dump_json(indent=1) + "\n")
    write_whole(folder / LINKS, "".join(f"/#{token}\n" for token in tokens))
    return key


def frame_of(case: StudyCase, side: int) -> tuple[int, int]:
    """(width, height) of all pictures of a case: the source's shape, else that of most outputs; at most `side`."""
    shapes = [(picture.width, picture.height) for picture in case.outputs]
    shape = max(shapes, key=shapes.count) if case.source is None else (case.source.width, case.source.height)
    largest = max(max(one) for one in [*shapes, shape])
    scale = min(side, largest) / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def framed(image: Image.Image, frame: tuple[int, int]) -> Image.Image:
    """The picture as large as the frame allows, in its middle on grey. No text, profile or date of it is kept."""
    scale = min(frame[0] / image.width, frame[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if _same_shape(image.size, frame):
        size = frame
    # Small pictures are enlarged by whole pixels: another filter would blur what their makers did not.
    is_small = size[0] % image.width == 0 and size[1] % image.height == 0
    how = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    ground = Image.new("RGB", frame, (128, 128, 128))
    ground.paste(image.convert("RGB").resize(size, how), ((frame[0] - size[0]) // 2, (frame[1] - size[1]) // 2))
    return ground


def _same_shape(size: tuple[int, int], frame: tuple[int, int]) -> bool:
    """Whether a picture fills the frame but for a rounding of 1 %."""
    return abs(size[0] * frame[1] / (size[1] * frame[0]) - 1) < 0.01


def padded(png: bytes, length: int) -> bytes:
    """The PNG with a chunk of random bytes before its end, so that it has `length` bytes, 12 more at least."""
    # Random, because a proxy that compresses would take zeros away again.
    content = secrets.token_bytes(length - len(png) - 12)
    chunk = struct.pack(">I", len(content)) + _PADDING + content + struct.pack(">I", zlib.crc32(_PADDING + content))
    return png[:-12] + chunk + png[-12:]


def _keep(data: bytes, public: Path, taken: set[str]) -> str:
    name = secrets.token_hex(TOKEN_BYTES)
    while name in taken:
        name = secrets.token_hex(TOKEN_BYTES)
    taken.add(name)
    (public / PICTURES / f"{name}.png").write_bytes(data)
    return name


def _write_page(public: Path, manifest: Manifest) -> None:
    first = next(iter(manifest.languages.values()))
    here = files("tagmoe.study") / "page"
    environment = page_environment("tagmoe.study")
    page = environment.get_template("page/index.html.j2").render(language=first.language, title=first.title)
    (public / PAGE).write_text(page, encoding="utf-8")
    style = environment.get_template("page/study.css.j2").render()
    (public / STYLE).write_text(style, encoding="utf-8")
    (public / SCRIPT).write_text((here / "study.js").read_text(encoding="utf-8"), encoding="utf-8")
    texts: dict[str, Any] = {name: one.model_dump(mode="json") for name, one in manifest.languages.items()}
    # The order of methods, their names and their number of cases are not in it.
    (public / TEXTS).write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
