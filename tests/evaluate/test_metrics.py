"""Metrics without weights against plain loops over their definitions, and on pictures whose values are known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.prepared_benchmarks import tagworld_bench

from tagmoe.evaluate.benchmarks.cases import Case, Prepared
from tagmoe.evaluate.metrics.alignment import align
from tagmoe.evaluate.metrics.canny import canny
from tagmoe.evaluate.metrics.control import colourfulness
from tagmoe.evaluate.metrics.copying import share_changed
from tagmoe.evaluate.metrics.metric import NoValue, Pair
from tagmoe.evaluate.metrics.registry import METRICS, make_metrics
from tagmoe.evaluate.metrics.structure import luma, ssim_map, windows_outside
from tagmoe.world import judge, sample


def photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A picture with the spectrum of photographs: each colour is noise that falls with the frequency."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    colours = []
    for _ in range(3):
        noise = np.fft.fft2(random.normal(size=(height, width))) / np.maximum(frequency, 1 / width)
        values = np.fft.ifft2(noise).real
        colours.append((values - values.min()) / np.ptp(values))
    return Image.fromarray((255 * np.stack(colours, axis=2)).astype(np.uint8))


def moved(picture: Image.Image, right: float, down: float, zoom: float) -> Image.Image:
    """The picture enlarged about its centre, then shifted; both in pixels of the result."""
    x, y = picture.width / 2, picture.height / 2
    matrix = (1 / zoom, 0, x - (x + right) / zoom, 0, 1 / zoom, y - (y + down) / zoom)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tagworld_bench(tmp_path_factory.mktemp("bench") / "tagworld")


@pytest.fixture
def photos(tmp_path: Path, bench: Prepared) -> Prepared:
    """A benchmark with a photograph and a mask of its left half."""
    photo(1).save(tmp_path / "source.png")
    photo(2).save(tmp_path / "target.png")
    mask = Image.new("L", (320, 240))
    mask.paste(255, (0, 0, 160, 240))
    mask.save(tmp_path / "mask.png")
    return Prepared(tmp_path, bench.manifest, ())


def values(photos: Prepared, metric: str, output: Image.Image, **fields: object) -> dict[str, float | NoValue]:
    given = {"source": "source.png", "target": "target.png", "mask": "mask.png", **fields}
    case = Case(bench="photos", id="1", task="edit", instruction="edit", **given)
    return dict(METRICS[metric]()(Pair(case, output, photos)))


def slow_ssim(a: np.ndarray, b: np.ndarray, row: int, column: int) -> float:
    """The definition at one window (Wang et al. 2004, eq. 13)."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
    covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def test_ssim_is_its_definition_in_every_window() -> None:
    a, b = luma(photo(1, 24, 19)), luma(photo(2, 24, 19))
    found = ssim_map(a, b)
    assert found.shape == (9, 14)
    wanted = [[slow_ssim(a, b, row, column) for column in range(14)] for row in range(9)]
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    np.testing.assert_allclose(ssim_map(a, a), 1.0)
    negative = ssim_map(a, 255 - a)
    assert negative.min() < -0.5
    assert ssim_map(a, 255 - a, clipped=True).min() == 0
    assert ssim_map(a[:10], b[:10]).size == 0


def test_windows_outside_hold_no_pixel_of_the_mask() -> None:
    edited = np.random.default_rng(0).random((40, 50)) < 0.004
    wanted = [[not edited[r : r + 11, c : c + 11].any() for c in range(40)] for r in range(30)]
    assert np.array_equal(windows_outside(edited), wanted)
    assert 0 < np.mean(wanted) < 1


def slow_canny(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """The steps of OpenCV's Canny, a pixel at a time; hysteresis from a stack of strong pixels."""
    height, width, colours = picture.shape
    around = np.pad(picture.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    dx, dy = np.zeros((height, width), int), np.zeros((height, width), int)
    size = np.zeros((height + 2, width + 2), int)
    for r in range(height):
        for c in range(width):
            for colour in range(colours):
                n = around[r : r + 3, c : c + 3, colour]
                x = n[0, 2] + 2 * n[1, 2] + n[2, 2] - n[0, 0] - 2 * n[1, 0] - n[2, 0]
                y = n[2, 0] + 2 * n[2, 1] + n[2, 2] - n[0, 0] - 2 * n[0, 1] - n[0, 2]
                if colour == 0 or abs(x) + abs(y) > size[r + 1, c + 1]:
                    dx[r, c], dy[r, c], size[r + 1, c + 1] = x, y, abs(x) + abs(y)
    kept = np.zeros((height, width), int)
    for r in range(height):
        for c in range(width):
            m, up, here, below = size[r + 1, c + 1], size[r], size[r + 1], size[r + 2]
            x, y = abs(dx[r, c]), abs(dy[r, c]) << 15
            if m <= low:
                continue
            if y < x * 13573:
                ridge = m > here[c] and m >= here[c + 2]
            elif y > x * 13573 + (x << 16):
                ridge = m > up[c + 1] and m >= below[c + 1]
            else:
                s = -1 if (dx[r, c] < 0) != (dy[r, c] < 0) else 1
                ridge = m > up[c + 1 - s] and m > below[c + 1 + s]
            kept[r, c] = (2 if m > high else 1) if ridge else 0
    stack = [tuple(place) for place in np.argwhere(kept == 2)]
    found = kept == 2
    while stack:
        r, c = stack.pop()
        for i in range(max(0, r - 1), min(height, r + 2)):
            for j in range(max(0, c - 1), min(width, c + 2)):
                if kept[i, j] and not found[i, j]:
                    found[i, j] = True
                    stack.append((i, j))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_canny_is_its_definition_pixel_by_pixel(seed: int) -> None:
    picture = np.asarray(photo(seed, 40, 30).resize((60, 45)))
    wanted = slow_canny(picture, 20, 60)
    assert np.array_equal(canny(picture, 20, 60), wanted)
    assert 0.01 < wanted.mean() < 0.5
    flat = np.full((9, 9, 3), 80, np.uint8)
    flat[:, 5:] = 200
    assert [canny(flat)[row].nonzero()[0].tolist() for row in (0, 4, 8)] == [[4], [4], [4]]


@pytest.mark.slow
def test_differences_are_means_over_the_right_pixels(photos: Prepared) -> None:
    output = photo(3)
    source, target = np.asarray(photo(1)) / 255, np.asarray(photo(2)) / 255
    edited = np.asarray(output) / 255
    found = values(photos, "target", output)
    assert found["l1_target"] == pytest.approx(np.abs(edited - target).mean())
    assert found["l2_target"] == pytest.approx(((edited - target) ** 2).mean())
    assert found["psnr_target"] == pytest.approx(10 * np.log10(1 / ((edited - target) ** 2).mean()))
    kept = values(photos, "source", output)
    assert kept["l1_raw"] == kept["l1_outside"] == pytest.approx(np.abs(edited - source)[:, 160:].mean())
    assert kept["l1_inside"] == pytest.approx(np.abs(edited - source)[:, :160].mean())
    whole = values(photos, "source", output, mask=None)
    assert whole["l1_raw"] == pytest.approx(np.abs(edited - source).mean())
    assert isinstance(whole["l1_outside"], NoValue)
    half = photo(1)
    half.paste(photo(3).crop((0, 0, 160, 240)), (0, 0))
    perfect = values(photos, "source", half)
    assert (perfect["l1_raw"], perfect["ssim_outside"]) == (0.0, pytest.approx(1.0))
    assert perfect["l1_inside"] > 0.05
    assert perfect["psnr_outside"] == NoValue("undefined", "the pictures are equal, so that PSNR is infinite")


def test_what_has_no_value_is_no_number(photos: Prepared) -> None:
    output = photo(3)
    for metric in make_metrics():
        found = values(photos, metric.name, output, source=None, target=None, mask=None)
        assert [one.name for one in metric.measures] == list(found)
        assert {value.status for value in found.values() if isinstance(value, NoValue)} == {"not_applicable"}
        assert len(found) == sum(isinstance(value, NoValue) for value in found.values())
    Image.new("L", (320, 240), 255).save(photos.folder / "mask.png")
    everywhere = values(photos, "source", output)
    whole = {f"{name}_source" for name in ("l1", "l2", "psnr", "ssim")}
    assert {name for name, value in everywhere.items() if not isinstance(value, NoValue)} == {"l1_inside", *whole}


def test_nothing_rewards_a_copy_of_the_whole_source() -> None:
    """What is best for a copy names no winner, but for ICE-Bench's own and for what lies outside a mask."""
    kept = {one.name: one.better for one in METRICS["source"]().measures}
    assert {name for name, better in kept.items() if better != "neither"} == {
        *("l1_raw", "l1_outside", "l2_outside", "psnr_outside", "ssim_outside"),
    }
    assert {one.better for one in METRICS["copying"]().measures} == {"neither", "lower"}


@pytest.mark.slow
def test_an_output_of_another_size_is_resized_and_noted(photos: Prepared) -> None:
    case = Case(bench="p", id="1", task="t", instruction="i", source="source.png", target="target.png")
    pair = Pair(case, photo(1).resize((640, 480)), photos)
    for name in ("source", "target", "copying", "alignment"):
        METRICS[name]()(pair)
    assert pair.resized == {"source", "target"}
    same = Pair(case, photo(1), photos)
    METRICS["source"]()(same)
    assert same.resized == set()


def test_a_transparent_part_of_a_mask_is_not_to_be_edited(photos: Prepared) -> None:
    """White on nothing, as programmes for drawing save it: laid on white it would be a mask of the whole picture."""
    mask = Image.new("RGBA", (320, 240))
    mask.paste("white", (0, 0, 160, 240))
    whole = values(photos, "source", photo(3))
    mask.save(photos.folder / "mask.png")
    assert values(photos, "source", photo(3)) == whole


def test_controls_follow_ice_bench(photos: Prepared) -> None:
    edges = Image.fromarray(np.uint8(255) * canny(np.asarray(photo(3))))
    edges.save(photos.folder / "source.png")
    found = values(photos, "control", photo(3), meta={"control": "edge"})
    assert found["l1_canny"] == 1.0
    assert isinstance(found["ssim"], NoValue)
    photo(3).convert("L").save(photos.folder / "source.png")
    coloured = values(photos, "control", photo(3), meta={"control": "colour"})
    assert coloured["l1_colorize"] == pytest.approx(1.0)
    assert coloured["colorfulness"] == colourfulness(np.asarray(photo(3)))
    assert values(photos, "control", photo(3).convert("L").convert("RGB"), meta={"control": "colour"})[
        "colorfulness"
    ] == pytest.approx(0, abs=1e-6)
    photo(3).save(photos.folder / "source.png")
    assert values(photos, "control", photo(3), meta={"control": "blur"})["ssim"] == pytest.approx(1.0)
    # A control picture is not to be kept: what compares with sources does not apply.
    assert isinstance(values(photos, "source", photo(3), meta={"control": "edge"})["l1_raw"], NoValue)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert colourfulness(red) == pytest.approx(0.3 * np.sqrt(1 + 0.25))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "down", "zoom"), [(0, 0, 1), (3, 0, 1), (0.5, -1.5, 1), (9, -14, 1), (0, 0, 1.03), (4, -3, 0.95)]
)
def test_shift_and_zoom_are_found_also_under_an_edit(right: float, down: float, zoom: float) -> None:
    source = photo(1, 640, 480)
    output = moved(source, right, down, zoom)
    for edited in (False, True):
        if edited:
            output.paste(photo(9, 200, 160), (300, 120))
        found = align(source, output)
        assert (found.right, found.down) == pytest.approx((right, down), abs=0.35)
        assert found.zoom == pytest.approx(zoom, abs=0.004)
        assert found.peak > 0.2


def test_pictures_that_do_not_match_have_no_shift(photos: Prepared) -> None:
    found = values(photos, "alignment", photo(50))
    assert {value.status for value in found.values() if isinstance(value, NoValue)} == {"undefined"}
    same = values(photos, "alignment", photo(1))
    assert same == {"shift": pytest.approx(0, abs=1e-6), "zoom": 0.0}


@pytest.mark.slow
def test_near_copies_are_found_and_true_edits_are_not(photos: Prepared) -> None:
    buffer = io.BytesIO()
    photo(1).save(buffer, "JPEG", quality=95)
    for copy in (photo(1), Image.open(buffer), photo(1).resize((160, 120)).resize((320, 240))):
        assert values(photos, "copying", copy)["near_copy"] == 1.0
    spot = photo(1)
    spot.paste((255, 0, 0), (100, 100, 124, 124))
    assert values(photos, "copying", spot)["near_copy"] == 0.0
    for number in range(200):
        case = sample(3, number, split="test")
        if case.sources and case.is_edit:
            assert share_changed(case.sources[0], case.target) > 0.01, case.instruction
    cut = np.zeros((12, 12, 3), np.uint8)
    assert share_changed(cut, cut + 255) == 1.0


def test_the_oracle_gives_the_verdict_of_the_world(bench: Prepared) -> None:
    oracle = METRICS["oracle"]()
    for case in bench.cases[::4]:
        drawn = sample(case.meta["seed"], case.meta["index"], split="test", task=case.task)
        for picture in (drawn.target, bench.cases[0].target):
            output = Image.fromarray(picture) if isinstance(picture, np.ndarray) else bench.picture(str(picture))
            verdict = judge(drawn, output)
            found = oracle(Pair(case, output, bench))
            assert (found["success"], found["edit_done"]) == (float(verdict.success), float(verdict.edit_done))
    changed = bench.cases[4].model_copy(update={"meta": {**bench.cases[4].meta, "index": 99}})
    refused = oracle(Pair(changed, bench.picture(str(changed.target)), bench))
    assert {value.status for value in refused.values() if isinstance(value, NoValue)} == {"failed"}
