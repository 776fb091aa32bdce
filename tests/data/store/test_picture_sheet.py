"""The sheet of one record shows every picture it has and every text, however long, and damaged pictures too."""

from __future__ import annotations

from PIL import ImageFont
from support.edit_files import picture_bytes

from tagmoe.data.store.picture_sheet import GAP, TILE, _caption, _wrapped, picture_sheet
from tagmoe.data.store.record import Picture, Record, TagProvenance, record_id
from tagmoe.report.colours import LIGHT, rgb


def record(**changes) -> Record:
    fields = {
        "id": record_id("test", "1"),
        "dataset": "test",
        "target": Picture.of(picture_bytes(1, size=(640, 320))),
        "instruction": "make it " + "very " * 60 + "red",
        "licence": "MIT",
        "tags": (0, 6),
    }
    return Record(**{**fields, **changes})


def test_the_sheet_grows_with_pictures_and_text():
    short = picture_sheet(record(instruction="x"))
    assert picture_sheet(record()).height > short.height
    images = tuple(Picture.of(picture_bytes(number), "reference") for number in range(3))
    wide = picture_sheet(record(images=images))
    assert wide.width == 4 * (TILE + GAP) + GAP


def test_a_picture_that_cannot_be_decoded_does_not_hide_the_others():
    broken = Picture.of(picture_bytes(1, "JPEG", (64, 64))[:1000], "mask")
    sheet = picture_sheet(record(images=(broken, Picture(b"rubbish", 9, 9))))
    # a red frame in the place of each, and the target behind them
    assert sheet.getpixel((GAP, 29)) == sheet.getpixel((2 * GAP + TILE, 29)) == rgb(LIGHT["bad"])
    assert sheet.getpixel((3 * GAP + 2 * TILE + 5, 29 + 5)) not in {rgb(LIGHT["card"]), rgb(LIGHT["bad"])}


def test_the_caption_says_all_that_is_known():
    parent = record_id("test", "0")
    given = record(
        instructions=("or this",),
        instruction_rewritten="better",
        caption_source="a",
        caption_target="b",
        native_task="swap",
        quality={"clip": 0.25},
        origin="file:3",
        parent=parent,
        operation="inverse",
        tag_provenance=TagProvenance("vlm"),
    )
    text = " | ".join(words for words, _ in _caption(given))
    for part in (
        "or this",
        "better",
        "clip 0.25",
        "swap",
        "MIT",
        "file:3",
        given.id,
        f"inverse of {parent}",
        given.split,
    ):
        assert part in text
    assert "Scope: local editing; Type: object editing (vlm, ok)" in text
    assert "not annotated" in " ".join(words for words, _ in _caption(record(tags=None)))


def test_long_words_are_cut_and_nothing_is_lost():
    font = ImageFont.load_default(size=13)
    text = "a " + "x" * 300 + " b"
    lines = _wrapped(text, 200, font)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
