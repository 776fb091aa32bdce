"""One table of picture files over every reader of pictures: all of them see the pixels that the file means."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tagmoe.annotation.rules import evidence
from tagmoe.colour_space import ADOBE_RGB, SRGB, matrix_profile
from tagmoe.data.check import checks
from tagmoe.data.encoder import mask_cells
from tagmoe.data.sources.pixels import decoded
from tagmoe.data.store.picture_sheet import _tile
from tagmoe.data.store.record import Picture
from tagmoe.errors import ImageError
from tagmoe.laboratory.routing.case_file import read_case_file
from tagmoe.pictures import load_image, load_mask, read_header
from tagmoe.pipeline.tensors import images_to_tensor, nest_images
from tagmoe.train.encoder import PipelineEncoder
from tagmoe.vlm.chat_prompt import _open
from tagmoe.vlm.pictures import capped
from tagmoe.vlm.question import Attachment

P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
WIDTH, HEIGHT = 48, 32
# Four quarters, so that no turn leaves the picture as it is.
QUARTERS = np.array([[(200, 30, 30), (40, 160, 60)], [(50, 70, 190), (220, 210, 200)]])
DRAWN = QUARTERS.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1).astype(np.uint8)
ALPHA = np.array([[255, 128], [0, 64]]).repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)
GREY = np.round(DRAWN @ (0.299, 0.587, 0.114)).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(data: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """PNG bytes with chunks behind the header, and behind the pixels."""
    return data[:33] + before + data[33:-12] + after + data[-12:]


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100000)))


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, 0, 1)))


def with_box(primaries: int, transfer: int) -> bytes:
    """AVIF bytes whose box says these numbers. Pillow writes those of sRGB."""
    data = saved(RGB, "AVIF", quality=100, subsampling="4:4:4")
    numbers = struct.pack(">HH", primaries, transfer)
    assert b"colrnclx\x00\x01\x00\x0d" in data
    return data.replace(b"colrnclx\x00\x01\x00\x0d", b"colrnclx" + numbers)


def chrm(points: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in points)))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    lossless = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    image.save(buffer, kind, **{**lossless.get(kind, {}), **options})
    return buffer.getvalue()


def on(values: np.ndarray, alpha: np.ndarray, ground: int = 255) -> np.ndarray:
    """Values (H, W, C) laid on an even ground."""
    share = alpha[..., None] / 255
    return values * share + ground * (1 - share)


def as_srgb(values: np.ndarray, points: tuple[float, ...], exponent: float | None) -> np.ndarray:
    """By the definition: decode, to XYZ, from XYZ, encode. All spaces here have the white of sRGB."""

    def to_xyz(numbers: tuple[float, ...]) -> np.ndarray:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(numbers[::2], numbers[1::2], strict=True)]).T
        return columns[:, 1:] * np.linalg.solve(columns[:, 1:], columns[:, 0])

    value = values / 255
    curved = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = curved if exponent is None else value**exponent
    there = (linear @ to_xyz(points).T @ np.linalg.inv(to_xyz(SRGB)).T).clip(0, 1)
    return 255 * np.where(there <= 0.0031308, 12.92 * there, 1.055 * there ** (1 / 2.4) - 0.055)


def adobe(*, by_option_file: bool) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {0xA001: 0xFFFF if by_option_file else 2}
    if by_option_file:
        exif[ExifTags.IFD.Exif][ExifTags.IFD.Interop] = {1: "R03"}
    return exif


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif


RGB, L = Image.fromarray(DRAWN), Image.fromarray(GREY)
RGBA = Image.fromarray(np.dstack([DRAWN, ALPHA]).astype(np.uint8))
LA = Image.fromarray(np.dstack([GREY, ALPHA]).astype(np.uint8))
PALETTE = RGB.quantize(4)
CLEAR = PALETTE.getpixel((0, HEIGHT - 1))
GREYS = GREY[..., None].repeat(3, axis=2)
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
HALF_CLEAR = np.where(ALPHA[..., None] == 0, 255, DRAWN)

# What the bytes are, and what they mean as sRGB. The tolerance of a JPEG is larger.
CASES: dict[str, tuple[bytes, np.ndarray]] = {
    **{f"RGB {kind}": (saved(RGB, kind), DRAWN) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")},
    **{f"RGBA {kind}": (saved(RGBA, kind), on(DRAWN, ALPHA)) for kind in ("PNG", "WEBP", "TIFF")},
    "P PNG": (saved(PALETTE), DRAWN),
    "P GIF": (saved(PALETTE, "GIF"), DRAWN),
    **{f"P {kind} transparent": (saved(PALETTE, kind, transparency=CLEAR), HALF_CLEAR) for kind in ("PNG", "GIF")},
    "RGB PNG colour key": (saved(RGB, transparency=(50, 70, 190)), HALF_CLEAR),
    **{f"L {kind}": (saved(L, kind), GREYS) for kind in ("PNG", "JPEG", "TIFF")},
    "LA PNG": (saved(LA), on(GREYS, ALPHA)),
    "I;16 PNG": (saved(Image.fromarray(GREY.astype(np.uint16) * 257)), GREYS),
    "I;16 TIFF": (saved(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), GREYS),
    "I;16 PNG grey key": (
        with_chunks(
            saved(Image.fromarray(GREY.astype(np.uint16) * 257)),
            chunk(b"tRNS", struct.pack(">H", int(GREY[-1, 0]) * 257)),
        ),
        np.where(ALPHA[..., None] == 0, 255, GREYS),
    ),
    "1 PNG": (saved(L.point(lambda value: 255 if value > 100 else 0, "1")), 255 * (GREYS > 100)),
    "CMYK JPEG": (saved(RGB.convert("CMYK"), "JPEG"), DRAWN),
    "CMYK TIFF": (saved(RGB.convert("CMYK"), "TIFF"), DRAWN),
    **{
        f"turn {turn} {kind}": (saved(RGB, kind, exif=turned(turn)), TURNS[turn](DRAWN))
        for turn in TURNS
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
    },
    "turn 6 PNG behind the pixels": (
        with_chunks(saved(RGB), after=chunk(b"eXIf", turned(6).tobytes()[6:])),
        TURNS[6](DRAWN),
    ),
    "PNG cICP P3": (with_chunks(saved(RGB), cicp(12, 13)), as_srgb(DRAWN, P3, None)),
    "PNG cICP P3 over sRGB": (with_chunks(saved(RGB), cicp(12, 13) + chunk(b"sRGB", b"\0")), as_srgb(DRAWN, P3, None)),
    "PNG cICP P3 RGBA": (with_chunks(saved(RGBA), cicp(12, 13)), on(as_srgb(DRAWN, P3, None), ALPHA)),
    "PNG cICP BT.709 linear": (with_chunks(saved(RGB), cicp(1, 8)), as_srgb(DRAWN, SRGB, 1.0)),
    "PNG cICP sRGB over gAMA": (with_chunks(saved(RGB), cicp(1, 13) + gama(1.0)), DRAWN),
    "PNG cICP PQ, with a profile": (
        with_chunks(saved(RGB, icc_profile=matrix_profile(P3, None)), cicp(9, 16)),
        as_srgb(DRAWN, P3, None),
    ),
    "AVIF P3": (with_box(12, 13), as_srgb(DRAWN, P3, None)),
    "AVIF with the curve of films": (with_box(1, 6), DRAWN),
    "PNG cICP cut short": (with_chunks(saved(RGB), chunk(b"cICP", b"\x0c")), DRAWN),
    "PNG sRGB chunk over gAMA": (with_chunks(saved(RGB), chunk(b"sRGB", b"\0") + gama(1.0)), DRAWN),
    "PNG usual gAMA": (with_chunks(saved(RGB), gama(0.45455) + chrm(SRGB)), DRAWN),
    "PNG gAMA 1.0": (with_chunks(saved(RGB), gama(1.0)), as_srgb(DRAWN, SRGB, 1.0)),
    "PNG gAMA 1/1.8": (with_chunks(saved(RGB), gama(0.55556)), as_srgb(DRAWN, SRGB, 1.8)),
    "PNG gAMA 1.0 RGBA": (with_chunks(saved(RGBA), gama(1.0)), on(as_srgb(DRAWN, SRGB, 1.0), ALPHA)),
    "PNG gAMA 1.0 L": (with_chunks(saved(L), gama(1.0)), as_srgb(GREYS, SRGB, 1.0)),
    "PNG gAMA 1.0 I;16": (
        with_chunks(saved(Image.fromarray(GREY.astype(np.uint16) * 257)), gama(1.0)),
        as_srgb(GREYS, SRGB, 1.0),
    ),
    "PNG gAMA 1.0 P": (
        with_chunks(saved(PALETTE, transparency=CLEAR), gama(1.0)),
        np.where(ALPHA[..., None] == 0, 255, as_srgb(DRAWN, SRGB, 1.0)),
    ),
    "PNG cHRM and gAMA": (with_chunks(saved(RGB), gama(0.45455) + chrm(P3)), as_srgb(DRAWN, P3, None)),
    "PNG cHRM without gAMA": (with_chunks(saved(RGB), chrm(P3)), as_srgb(DRAWN, P3, None)),
    "PNG chunks that make no sense": (with_chunks(saved(RGB), gama(0) + chrm((0.0,) * 8)), DRAWN),
    "AdobeRGB by EXIF": (
        saved(RGB, "JPEG", exif=adobe(by_option_file=False)),
        as_srgb(DRAWN, ADOBE_RGB, 563 / 256),
    ),
    "AdobeRGB by EXIF WebP": (
        saved(RGB, "WEBP", exif=adobe(by_option_file=False)),
        as_srgb(DRAWN, ADOBE_RGB, 563 / 256),
    ),
    "AdobeRGB by option file": (
        saved(RGB, "JPEG", exif=adobe(by_option_file=True)),
        as_srgb(DRAWN, ADOBE_RGB, 563 / 256),
    ),
    "Display P3 profile": (saved(RGB, icc_profile=matrix_profile(P3, None)), as_srgb(DRAWN, P3, None)),
    "Display P3 profile, colour key": (
        saved(RGB, icc_profile=matrix_profile(P3, None), transparency=(50, 70, 190)),
        np.where(ALPHA[..., None] == 0, 255, as_srgb(DRAWN, P3, None)),
    ),
    "sRGB profile over EXIF": (
        saved(
            RGB,
            "JPEG",
            exif=adobe(by_option_file=False),
            icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        ),
        DRAWN,
    ),
}  # fmt: skip


def of_a_pipeline(data: bytes, folder: Path) -> np.ndarray:
    """`tagmoe edit`, and the pipeline of Python: the numbers that the autoencoder encodes."""
    (folder / "picture").write_bytes(data)
    pixels = images_to_tensor(nest_images(folder / "picture", 1, is_batch=False)[0])
    return (pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5


def of_a_routing_record(data: bytes, folder: Path) -> np.ndarray:
    (folder / "picture").write_bytes(data)
    (folder / "cases.jsonl").write_text(json.dumps({"instruction": "x", "images": ["picture"]}))
    return np.asarray(read_case_file(folder / "cases.jsonl", 0)[0].sources[0])


def of_a_simple_server(data: bytes, _: Path) -> np.ndarray:
    """A server of a vision-language model gets bytes, and may know no tag."""
    return np.asarray(Image.open(io.BytesIO(capped(data, 1 << 20))).convert("RGB"))


def of_a_sheet(data: bytes, _: Path) -> np.ndarray:
    tile = _tile(Picture.of(data, "source"))
    assert isinstance(tile, Image.Image)
    header = read_header(data)
    return np.asarray(tile.resize((header.width, header.height), Image.Resampling.NEAREST))


def of_a_check(data: bytes, _: Path) -> np.ndarray:
    header = read_header(data)
    picture = {"role": "source", "data": data, "width": header.width, "height": header.height}
    findings, view = checks.picture_findings(picture)
    assert [finding.check for finding in findings] == ["tiny"]
    assert view is not None
    return view.copy


READERS: dict[str, Callable[[bytes, Path], np.ndarray]] = {
    "load_image": lambda data, _: np.asarray(load_image(data)),
    "edit": of_a_pipeline,
    "data import, cut": lambda data, _: np.asarray(decoded(Picture.of(data, "source"))),
    "train": lambda data, _: np.asarray(PipelineEncoder.decode(None, data)),  # type: ignore[arg-type]
    "annotate by rules": lambda data, _: evidence.decode(data),
    "annotate by a model here": lambda data, _: np.asarray(_open(Attachment(capped(data, 1 << 20)))),
    "annotate by a server": of_a_simple_server,
    "routing record": of_a_routing_record,
    "data validate": of_a_check,
    "data view": of_a_sheet,
}


# A turn is read by its kind of file and by its number, apart from one another: each kind once, and each number once.
REPEATED = {f"turn {turn} {kind}" for turn in set(TURNS) - {6} for kind in ("PNG", "WEBP", "TIFF")}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in REPEATED else case for case in CASES]
)
def test_every_reader_sees_what_the_file_means(case: str, tmp_path: Path) -> None:
    data, wanted = CASES[case]
    assert read_header(data)[:2] == (wanted.shape[1], wanted.shape[0])
    for reader, read in READERS.items():
        found = read(data, tmp_path)
        assert found.shape == wanted.shape, reader
        # The middle of each quarter: a JPEG is not exact at the edges. The dark end of a curve is steep.
        inner = np.s_[4::8, 4::8]
        assert np.abs(found[inner].astype(float) - wanted[inner]).max() <= 4, reader


CHOSEN = np.zeros((HEIGHT, WIDTH), bool)
CHOSEN[: HEIGHT // 2, : WIDTH // 2] = True
CHOSEN[HEIGHT // 2 :, -8:] = True
WHITE = (255 * CHOSEN).astype(np.uint8)
BLACK_AND_WHITE = Image.fromarray(WHITE)


def back(turn: int) -> Image.Image:
    """The mask as a camera stores it that notes this turn."""
    inverse = {6: 8, 8: 6}.get(turn, turn)
    return Image.fromarray(np.ascontiguousarray(TURNS[inverse](WHITE)))


def painted(mode: str) -> Image.Image:
    """White strokes on a transparent layer, as painting programs save them."""
    layer = Image.fromarray(np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), WHITE]))
    return layer.convert("LA") if mode == "LA" else layer


INVERTED = Image.fromarray((~CHOSEN).astype(np.uint8), "L")
INVERTED = INVERTED.convert("P")
INVERTED.putpalette([255, 255, 255, 0, 0, 0])
SOFT = Image.fromarray(np.where(CHOSEN, 140, 110).astype(np.uint8))

MASKS: dict[str, bytes] = {
    **{f"L {kind}": saved(BLACK_AND_WHITE, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")},
    "RGB": saved(BLACK_AND_WHITE.convert("RGB")),
    "1": saved(BLACK_AND_WHITE.convert("1")),
    "I;16": saved(Image.fromarray(WHITE.astype(np.uint16) * 257)),
    "I;16 grey": saved(Image.fromarray(np.where(CHOSEN, 40000, 20000).astype(np.uint16))),
    "palette": saved(INVERTED),
    "white on transparent RGBA": saved(painted("RGBA")),
    "white on transparent LA": saved(painted("LA")),
    "white on transparent WebP": saved(painted("RGBA"), "WEBP"),
    "white on transparent P": saved(INVERTED, transparency=b"\xff\0"),
    "soft": saved(SOFT),
    "with a gamma": with_chunks(saved(SOFT), gama(1.0)),
    **{f"turn {turn} {kind}": saved(back(turn), kind, exif=turned(turn)) for turn in TURNS for kind in ("PNG", "TIFF")},
}  # fmt: skip


def of_mask_cases(data: bytes, folder: Path) -> np.ndarray:
    (folder / "mask").write_bytes(data)
    (folder / "cases.jsonl").write_text(json.dumps({"instruction": "x", "mask": "mask"}))
    mask = read_case_file(folder / "cases.jsonl", 0)[0].mask
    assert mask is not None
    return mask


def of_a_mask_sheet(data: bytes, _: Path) -> np.ndarray:
    tile = _tile(Picture.of(data, "mask"))
    assert isinstance(tile, Image.Image)
    return np.asarray(tile.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)) > 127


def of_a_cell_grid(data: bytes, _: Path) -> np.ndarray:
    """The cells of `data encode`, of 8 pixels, back at the size of the mask."""
    return mask_cells(load_mask(data), (WIDTH, HEIGHT), 8).repeat(8, axis=0).repeat(8, axis=1)


MASK_READERS: dict[str, Callable[[bytes, Path], np.ndarray]] = {
    "load_mask": lambda data, _: np.asarray(load_mask(data)) == 255,
    "routing record": of_mask_cases,
    "data import, cut": lambda data, _: np.asarray(decoded(Picture.of(data, "mask"))) == 255,
    "data encode": of_a_cell_grid,
    "data view": of_a_mask_sheet,
}


@pytest.mark.slow_but_first
@pytest.mark.parametrize("case", MASKS)
def test_every_reader_of_masks_selects_the_same(case: str, tmp_path: Path) -> None:
    for reader, read in MASK_READERS.items():
        assert np.array_equal(read(MASKS[case], tmp_path), CHOSEN), reader


@pytest.mark.parametrize("case", ["I;16", "white on transparent RGBA", "turn 6 TIFF"])
def test_a_check_of_masks_finds_no_fault_in_a_good_one(case: str) -> None:
    ground = checks.View(WIDTH, HEIGHT, np.zeros((HEIGHT, WIDTH, 3), np.uint8), 1)
    assert checks.mask_findings(MASKS[case], ground) == []


def test_a_mask_that_is_white_only_where_it_is_transparent_is_empty() -> None:
    hidden = saved(Image.new("RGBA", (8, 8), (255, 255, 255, 0)))
    assert [finding.check for finding in checks.mask_findings(hidden, None)] == ["empty mask"]


def test_arrays_are_masks_too() -> None:
    for form in (CHOSEN, WHITE, WHITE.astype(np.uint16) * 257, np.dstack([WHITE | 255, WHITE])):
        assert np.array_equal(np.asarray(load_mask(form)) == 255, CHOSEN)


@pytest.mark.parametrize(
    "data", [with_chunks(saved(RGB), cicp(9, 16)), with_chunks(saved(RGB), cicp(9, 18)), with_box(9, 16)]
)
def test_high_dynamic_range_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(data)
    with pytest.raises(ImageError, match=r"'.*picture' has high dynamic range \((PQ|HLG)\)"):
        load_image(tmp_path / "picture")
    with pytest.raises(ImageError, match=r"^picture of high dynamic range$"):
        read_header(data)
