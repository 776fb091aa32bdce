"""One record as a picture for people: what is given, what is to be made, and all that is known about it."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from tagmoe.data.store.record import Picture, Record
from tagmoe.errors import ImageError
from tagmoe.pictures import load_image, load_mask
from tagmoe.report.colours import LIGHT
from tagmoe.sentences import counted
from tagmoe.tags import TAGS, TaskDescriptor

TILE = 320
"""Longest side of a picture on the sheet, in pixels."""
GAP = 12
LINE = 17
MIN_WIDTH = 2 * TILE + 3 * GAP
PAPER, INK, SOFT, FRAME, BAD = (LIGHT[name] for name in ("card", "ink", "soft", "line", "bad"))


def picture_sheet(record: Record) -> Image.Image:
    """The pictures in their order and the target beside one another, roles above, captions below.

    A picture that cannot be decoded is shown as an empty frame that says so.
    """
    titled = [*((picture.role, picture) for picture in record.images), ("target", record.target)]
    width = max(MIN_WIDTH, len(titled) * (TILE + GAP) + GAP)
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    lines = [(text, colour) for words, colour in _caption(record) for text in _wrapped(words, width - 2 * GAP, font)]
    top = GAP + LINE
    sheet = Image.new("RGB", (width, top + TILE + GAP + LINE * len(lines) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(titled):
        left = GAP + number * (TILE + GAP)
        draw.text((left, GAP - 4), f"{title}, {picture.width} x {picture.height}", fill=SOFT, font=small)
        tile = _tile(picture)
        if isinstance(tile, str):
            draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline=BAD)
            for place, text in enumerate(_wrapped(tile, TILE - 2 * GAP, small)):
                draw.text((left + GAP, top + GAP + place * LINE), text, fill=BAD, font=small)
        else:
            sheet.paste(tile, (left, top))
            draw.rectangle((left - 1, top - 1, left + tile.width, top + tile.height), outline=FRAME)
    for place, (text, colour) in enumerate(lines):
        draw.text((GAP, top + TILE + GAP + place * LINE), text, fill=colour, font=font)
    return sheet


def _tile(picture: Picture) -> Image.Image | str:
    """The picture at most TILE large, or why it cannot be shown."""
    try:
        flat = load_mask(picture.data) if picture.role == "mask" else load_image(picture.data)
    except ImageError as error:
        return f"{counted(picture.data, 'byte')} that cannot be decoded ({error})"
    scale = TILE / max(flat.size)
    # Small pictures are enlarged pixel by pixel, as a sheet is to show what is there.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return flat.resize((max(1, round(flat.width * scale)), max(1, round(flat.height * scale))), method)


def _caption(record: Record) -> list[tuple[str, str]]:
    texts = [(record.instruction or "(empty instruction)", INK)]
    texts += [(f"or: {text}", INK) for text in record.instructions]
    if record.instruction_rewritten is not None:
        texts.append((f"rewritten: {record.instruction_rewritten}", INK))
    for name, caption in (("source", record.caption_source), ("target", record.caption_target)):
        if caption is not None:
            texts.append((f"caption of the {name}: {caption}", SOFT))
    if record.tags is None:
        texts.append(("not annotated", SOFT))
    else:
        names = TaskDescriptor.from_tags(TAGS[index].name for index in record.tags).format() or "no tag"
        given = record.tag_provenance
        texts.append((names + (f" ({given.annotator}, {given.status})" if given is not None else ""), INK))
    if record.quality:
        scores = ", ".join(f"{name} {value:g}" for name, value in sorted(record.quality.items()))
        texts.append((f"quality: {scores}", SOFT))
    task = f", task {record.native_task}" if record.native_task else ""
    texts.append((f"{record.dataset}{task}, {record.licence}, {record.split}, from {record.origin or 'nowhere'}", SOFT))
    lineage = f"id {record.id}, root {record.root[:12]}"
    if record.parent is not None:
        lineage += f", {record.operation} of {record.parent}"
    return [*texts, (lineage, SOFT)]


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of at most `width` pixels, cut between words, or within one that is too long."""
    lines, line = [], ""
    for word in text.split():
        while font.getlength(word) > width:
            fitting = next(count for count in range(len(word), 0, -1) if font.getlength(word[:count]) <= width)
            lines += [line, word[:fitting]] if line else [word[:fitting]]
            line, word = "", word[fitting:]
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]
