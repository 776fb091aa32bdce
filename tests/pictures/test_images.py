"""Whatever a user hands over becomes upright 8-bit RGB, or one sentence that says what was wrong."""

from __future__ import annotations

import io
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tagmoe import pictures
from tagmoe.errors import ImageError, UsageError
from tagmoe.pictures import fit_size, load_image, resize_image
from tagmoe.pipeline.tensors import images_to_tensor, nest_images


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_the_same_picture_in_every_form_is_the_same(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    picture.save(path)
    values = np.asarray(picture)
    tensor = torch.from_numpy(values.copy()).permute(2, 0, 1)
    forms = [picture, path, str(path), values, values.astype(np.float32) / 255, values.astype(np.uint16) * 257]
    forms += [tensor, tensor[None], tensor.float() / 255, (tensor.double() / 255).requires_grad_()]
    for form in forms:
        loaded = load_image(form)
        assert loaded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(loaded), values)


def test_the_result_never_shares_memory_with_the_input(picture: Image.Image) -> None:
    loaded = load_image(picture)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) != (1, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture: Image.Image, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    picture.save(path, exif=exif)
    assert load_image(path).size == ((12, 20) if orientation >= 5 else (20, 12))


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (200, 0, 0, 255))
    for form in (half, np.asarray(half), half.convert("RGBa")):
        assert [load_image(form).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]
    grey = Image.fromarray(np.array([[[0, 0], [90, 255]]], dtype=np.uint8))
    assert grey.mode == "LA"
    assert [load_image(grey).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (90, 90, 90)]


def test_a_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    path = tmp_path / "p.png"
    palette.save(path, transparency=0)
    loaded = load_image(path)
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (40, 50, 60)]


def test_sixteen_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    for form in (path, values, values.astype(">u2"), Image.fromarray(values)):
        assert [load_image(form).getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_every_mode_of_pillow_loads(mode: str) -> None:
    image = Image.new(mode, (5, 3))
    assert (load_image(image).mode, load_image(image).size) == ("RGB", (5, 3))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "two.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_a_truncated_file_is_refused(picture: Image.Image, tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        buffer = io.BytesIO()
        picture.resize((200, 200)).save(buffer, {"png": "PNG", "jpg": "JPEG"}[suffix])
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(ImageError, match=r"cut\.\w+' is damaged or incomplete"):
            load_image(path)


def test_a_damaged_exif_block_does_not_cost_the_picture(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "exif.jpg"
    picture.save(path, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01")
    assert load_image(path).size == picture.size


def test_the_size_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (40, 30)).save(path)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before the size was checked"))
    with pytest.raises(ImageError, match="40x30"):
        load_image(path)


def test_a_decompression_bomb_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (40, 30)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="at most 64 megapixels"):
        load_image(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such.png", "no picture file"),
        ("https://example.org/cat.png", "download the picture"),
        ("data:image/png;base64,AAAA", "download the picture"),
        (".", "is a folder"),
        (Image.new("RGB", (0, 0)), "0x0 pixels"),
        (np.zeros((0, 4, 3), np.uint8), "4x0 pixels"),
        (np.zeros((4, 4, 5), np.uint8), "is no picture"),
        (np.zeros(7), "is no picture"),
        (np.full((4, 4, 3), -1.0), "scale them to 0..1"),
        (np.full((4, 4, 3), 200.0), "scale them to 0..1"),
        (np.full((4, 4, 3), np.nan), "scale them to 0..1"),
        (np.full((4, 4), -3), "8-bit or 16-bit"),
        (np.full((4, 4), 1j), "complex128"),
        (torch.zeros(4, 4), "is no picture"),
        (torch.zeros(2, 3, 4, 4), "is no picture"),
        (torch.zeros(5, 4, 3), "is no picture"),
        (7, "type int is not understood"),
        (None, "type NoneType is not understood"),
    ],
)
def test_what_is_no_picture_is_one_sentence(source: object, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    for name, content in (("empty.png", b""), ("text.jpg", b"hello"), ("zeros.webp", bytes(100))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            load_image(tmp_path / name)


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    side=st.sampled_from([64, 128, 1024]),
    m=st.sampled_from([8, 16]),
)
def test_fit_size_keeps_aspect_and_area_to_rounding(width: int, height: int, side: int, m: int) -> None:
    fitted_height, fitted_width = fit_size(width, height, side * side, m)
    assert fitted_height % m == fitted_width % m == 0
    assert min(fitted_height, fitted_width) >= m
    scale = side / (width * height) ** 0.5
    for fitted, given_side in ((fitted_height, height), (fitted_width, width)):
        assert abs(fitted - given_side * scale) <= m / 2 + 1e-6 or fitted == m


def test_resize_and_tensor(picture: Image.Image) -> None:
    assert resize_image(picture, 12, 20) is picture
    assert resize_image(picture, 24, 8).size == (8, 24)
    pixels = images_to_tensor([picture, picture])
    assert pixels.shape == (2, 3, 12, 20)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose((pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5, np.asarray(picture), atol=1e-4)


def test_nesting_of_references(picture: Image.Image) -> None:
    assert nest_images(None, 2, is_batch=True) == [[]]
    assert [len(row) for row in nest_images(picture, 3, is_batch=True)] == [1]
    assert [len(row) for row in nest_images([picture, picture], 1, is_batch=False)] == [2]
    assert [len(row) for row in nest_images([[picture], [picture]], 2, is_batch=True)] == [1, 1]
    assert [len(row) for row in nest_images([picture, picture], 2, is_batch=True)] == [1, 1]
    for bad in ([], [picture] * 3, [[picture]], [[picture], []], [[picture], picture], [[picture], [picture] * 2]):
        with pytest.raises(UsageError):
            nest_images(bad, 2, is_batch=True)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_format_that_starts_another_program_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "picture.png"
    path.write_bytes(EPS)
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(ImageError, match="not a picture that can be read"):
        load_image(path)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kind", [*pictures.FORMATS, "MPO"])
def test_each_allowed_format_is_read_and_may_be_damaged(picture: Image.Image, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.bin"
    picture.save(path, format=kind)
    assert load_image(path).size == picture.size
    data = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        noise = random.integers(0, 256, 8, dtype=np.uint8).tobytes()
        at = int(random.integers(0, len(data)))
        path.write_bytes((data[:at] + noise + data[at + 8 :])[: int(random.integers(at, len(data) + 1))])
        try:
            assert load_image(path).mode == "RGB"
        except ImageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("error", [RuntimeError("no frame"), AssertionError(), IndexError("x"), zlib.error("bad")])
def test_whatever_a_decoder_raises_is_a_bad_picture(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Image.Image) -> None:
        raise error

    picture.save(tmp_path / "picture.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ImageError, match="damaged"):
        load_image(tmp_path / "picture.png")


def test_a_format_that_is_not_allowed_is_refused_even_when_it_is_whole(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "picture.ico")
    with pytest.raises(ImageError, match="use PNG"):
        load_image(tmp_path / "picture.ico")
