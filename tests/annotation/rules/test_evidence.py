"""Pixel evidence: what an edit drawn by hand must show, wherever it is, and what must not show as one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tagmoe.annotation.rules.camera import STILL
from tagmoe.annotation.rules.evidence import Evidence, compare, conflicts, measure
from tagmoe.data.store.record import Picture, Record
from tagmoe.errors import ImageError
from tagmoe.tags import TaskDescriptor

LOCAL = TaskDescriptor(("local editing",), ("object editing",), ("background preservation", "style preservation"))
VIEWPOINT = TaskDescriptor(("viewpoint editing",), (), ("identity preservation", "style preservation"))
LIGHT = TaskDescriptor(("global editing",), ("illumination editing",), ("structure preservation",))
MULTI = TaskDescriptor(("multi region editing",), ("object editing",), ("background preservation",))
BACKGROUND = TaskDescriptor(("global editing",), ("background editing",), ("identity preservation",))


def scenery(seed: int = 0, size: tuple[int, int] = (192, 192)) -> np.ndarray:
    """Coloured clouds of several sizes, (H, W, 3) uint8, of levels 20 to 200: no two places are alike."""
    rng = np.random.default_rng(seed)
    layers = [
        width * ndimage.gaussian_filter(rng.normal(size=(*size, 3)), (width, width, 0), mode="wrap")
        for width in (2, 6, 20)
    ]
    clouds = sum(layers)
    return np.uint8(20 + 180 * (clouds - clouds.min()) / np.ptp(clouds))


def encoded(picture: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, kind, **options)
    return data.getvalue()


def record(*pictures: tuple[bytes, str], target: bytes) -> Record:
    images = tuple(Picture(data, 192, 192, role) for data, role in pictures)  # type: ignore[arg-type]
    return Record("id", "made", Picture(target, 192, 192), "edit it", "CC0", images)


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return scenery()


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(x=st.integers(0, 130), y=st.integers(0, 130), width=st.integers(20, 60), height=st.integers(20, 60))
def test_an_edit_in_one_region_is_one_region_of_that_area(x: int, y: int, width: int, height: int) -> None:
    source = scenery()
    target = source.copy()
    target[y : y + height, x : x + width] = (255, 0, 255)
    area = target[y : y + height, x : x + width, 0].size / source[..., 0].size
    found = compare(source, target)
    assert found.regions == 1
    # A pixel of the border more or less is a fifth of the smallest.
    assert found.changed_area == pytest.approx(area, rel=0.25)
    assert found.camera == STILL
    assert found.layout > 0
    assert conflicts(found, LOCAL) == () or found.background_kept < 0.5


@settings(max_examples=6, deadline=None)
@given(count=st.integers(2, 4), seed=st.integers(0, 5))
def test_edits_far_apart_are_counted(count: int, seed: int) -> None:
    source = scenery(seed)
    target = source.copy()
    for y, x in ((10, 10), (10, 140), (140, 10), (140, 140))[:count]:
        target[y : y + 30, x : x + 30] = (255, 0, 255)
    found = compare(source, target)
    assert found.regions == count
    assert conflicts(found, MULTI) == ()


def test_identical_pictures_contradict_every_tag(source: np.ndarray) -> None:
    found = compare(source, source.copy())
    assert found.identical
    assert found.changed_area == 0
    assert found.regions == 0
    for descriptor in (LOCAL, VIEWPOINT, LIGHT):
        assert conflicts(found, descriptor) == ("identical pictures",)


@pytest.mark.parametrize("quality", [95, 80, 60])
def test_encoding_again_is_no_change(source: np.ndarray, quality: int) -> None:
    found = measure(record((encoded(source), "source"), target=encoded(source, "JPEG", quality=quality)))
    assert found is not None
    assert found.changed_area == 0
    assert found.regions == 0
    assert found.background_kept == 1
    assert found.edges_kept > 0.8
    assert abs(found.luminance_shift) < 1


def test_another_size_is_no_change(source: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(source).resize((384, 384), Image.Resampling.BICUBIC))
    for pair in ((source, large), (large, source)):
        found = compare(*pair)
        assert found.changed_area < 0.01


def test_another_aspect_is_fitted(source: np.ndarray) -> None:
    for target in (source[24:-24], np.asarray(Image.fromarray(source).resize((192, 150), Image.Resampling.BOX))):
        found = compare(source[24:-24] if target.shape == (144, 192, 3) else source, source)
        assert found.changed_area < 0.05


@pytest.mark.parametrize("factor", [0.4, 0.6, 1.25])
def test_brightness_looks_like_light(source: np.ndarray, factor: float) -> None:
    found = compare(source, np.uint8(np.minimum(source * factor, 255)))
    assert found.camera == STILL
    assert found.edges_kept > 0.9
    assert np.sign(found.luminance_shift) == np.sign(factor - 1)
    assert conflicts(found, LIGHT) == ()
    assert "local editing but most pixels changed" in conflicts(found, LOCAL)


def test_one_tint_is_no_style_that_is_kept(source: np.ndarray) -> None:
    kept = TaskDescriptor(("global editing",), ("attribute editing",), ("style preservation",))
    toned = "style preservation but the picture is toned"
    sepia = np.uint8(source.mean(-1, keepdims=True) * (1.0, 0.8, 0.55))
    assert toned in conflicts(compare(source, sepia), kept)
    assert toned not in conflicts(compare(source, 255 - source), kept)


@pytest.mark.parametrize("scale", [1.2, 1.45])
def test_a_nearer_camera_is_a_viewpoint(source: np.ndarray, scale: float) -> None:
    inner = round(192 / scale)
    edge = (192 - inner) // 2
    crop = source[edge : edge + inner, edge : edge + inner]
    found = compare(source, np.asarray(Image.fromarray(crop).resize((192, 192), Image.Resampling.BICUBIC)))
    assert found.camera.scale == pytest.approx(scale, rel=0.1)
    assert not found.camera.mirrored
    assert conflicts(found, VIEWPOINT) == ()
    assert "no viewpoint editing but the camera moved" in conflicts(found, LIGHT) or found.camera.fit < 0.97
    assert "structure preservation but the camera moved" in conflicts(found, LIGHT)


def test_a_turned_and_a_mirrored_scene_are_viewpoints(source: np.ndarray) -> None:
    turned = np.asarray(Image.fromarray(source).rotate(15, Image.Resampling.BICUBIC))
    found = compare(source, turned)
    assert abs(found.camera.turn) == pytest.approx(15, abs=4)
    mirrored = compare(source, source[:, ::-1].copy())
    assert mirrored.camera.mirrored
    assert mirrored.camera.fit > 0.95


def test_a_viewpoint_with_the_same_layout_is_a_conflict(source: np.ndarray) -> None:
    target = source.copy()
    target[80:100, 80:100] = 0
    assert "viewpoint editing but the layout stayed" in conflicts(compare(source, target), VIEWPOINT)


def test_a_background_that_changed_and_one_that_stayed(source: np.ndarray) -> None:
    around = scenery(9)
    around[60:130, 60:130] = source[60:130, 60:130]
    found = compare(source, around)
    assert "background preservation but the background changed" in conflicts(found, LOCAL)
    assert conflicts(found, BACKGROUND) == ()
    inside = source.copy()
    inside[90:105, 90:105] = (255, 0, 255)
    named = conflicts(compare(source, inside), BACKGROUND)
    assert "background editing but the background stayed" in named
    assert "global editing but few pixels changed" in named
    assert conflicts(compare(source, inside), MULTI) == ("multi region editing but one region changed",)


def test_a_small_shift_is_taken_back(source: np.ndarray) -> None:
    found = compare(source[4:164, 4:164], source[:160, :160])
    assert found.changed_area < 0.02


def test_only_a_record_with_one_edited_picture_has_evidence(source: np.ndarray) -> None:
    data = encoded(source)
    assert measure(record(target=data)) is None
    assert measure(record((data, "reference"), target=data)) is None
    assert measure(record((data, "source"), (data, "source"), target=data)) is None
    for role in ("source", "person"):
        found = measure(record((data, role), (data, "mask"), target=data))
        assert isinstance(found, Evidence)
        assert found.identical
    assert conflicts(None, LOCAL) == ()


def test_what_is_no_picture_is_said_in_one_sentence(source: np.ndarray) -> None:
    data = encoded(source)
    for broken in (b"", b"no picture", data[: len(data) // 2]):
        with pytest.raises(ImageError, match="cannot be decoded"):
            measure(record((broken, "source"), target=data))
    for array in (source[..., 0], source.astype(np.float32), source[:0]):
        with pytest.raises(ImageError, match="give uint8"):
            compare(array, source)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (16, 16), (65, 97)])
def test_any_size_can_be_measured(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    found = compare(rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name, value in vars(found).items():
        assert np.all(np.isfinite(np.asarray(value, dtype=float))), name


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (192, 192), (200, 0, 0, 0))
    data = io.BytesIO()
    clear.save(data, "PNG")
    white = encoded(np.full((192, 192, 3), 255, dtype=np.uint8))
    found = measure(record((data.getvalue(), "source"), target=white))
    assert found is not None
    assert found.identical
