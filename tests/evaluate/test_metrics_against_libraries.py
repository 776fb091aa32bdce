"""Metrics without weights against the libraries that people take: scikit-image, torchmetrics, and OpenCV's edges."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import metrics as skimage_metrics
from skimage.registration import phase_cross_correlation

from tagmoe.evaluate.benchmarks.cases import Case, Manifest, Prepared
from tagmoe.evaluate.metrics.alignment import align
from tagmoe.evaluate.metrics.canny import canny
from tagmoe.evaluate.metrics.differences import SourceDifference, TargetDifference
from tagmoe.evaluate.metrics.metric import Pair, Value
from tagmoe.evaluate.metrics.structure import luma, ssim_map, windows_outside
from tagmoe.world import sample

SIDES = (61, 47)
SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}


def soft(seed: int) -> np.ndarray:
    """(47, 61, 3) uint8: noise that neighbours share, so that SSIM is neither 0 nor 1."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIDES, Image.Resampling.BICUBIC))


@pytest.fixture(params=range(3))
def pictures(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An output, what it is compared with, and where it may differ."""
    random = np.random.default_rng(100 + request.param)
    other = soft(request.param)
    noise = random.integers(-30, 31, other.shape)
    output = np.clip(other.astype(int) + noise, 0, 255).astype(np.uint8)
    edited = np.zeros(other.shape[:2], bool)
    edited[5 : 20 + request.param, 8:30] = True
    return output, other, edited


def scored(folder: Path, role: str, output: np.ndarray, other: np.ndarray, edited: np.ndarray) -> dict[str, Value]:
    """The values of a metric, from files as in a benchmark. role: source or target."""
    for name, picture in (("other", other), ("mask", np.uint8(255) * edited)):
        Image.fromarray(picture).save(folder / f"{name}.png")
    manifest = Manifest(
        benchmark="x", licence="own", made_from="x", settings={}, cases=1, tasks={"edit": 1}, digest="d"
    )
    case = Case(bench="x", id="1", task="edit", instruction="i", mask="mask.png", **{role: "other.png"})
    metric = SourceDifference() if role == "source" else TargetDifference()
    return dict(metric(Pair(case, Image.fromarray(output), Prepared(folder, manifest, (case,)))))


@pytest.mark.parametrize("role", ["source", "target"])
def test_l1_l2_psnr_and_ssim_are_those_of_scikit_image(tmp_path: Path, pictures: Any, role: str) -> None:
    output, other, edited = pictures
    found = scored(tmp_path, role, output, other, edited)
    a, b = output / 255, other / 255
    outside = "outside" if role == "source" else "target_outside"
    for name, (x, y) in {role: (a, b), outside: (a[~edited], b[~edited])}.items():
        assert found[f"l2_{name}"] == pytest.approx(skimage_metrics.mean_squared_error(x, y), rel=1e-12)
        psnr = skimage_metrics.peak_signal_noise_ratio(y, x, data_range=1)
        assert found[f"psnr_{name}"] == pytest.approx(psnr, rel=1e-12)
        assert found[f"l1_{name}"] == pytest.approx(np.abs(x - y).mean(), rel=1e-12)
    mean, whole = skimage_metrics.structural_similarity(
        luma(Image.fromarray(output)), luma(Image.fromarray(other)), **SKIMAGE
    )
    inner = whole[5:-5, 5:-5]
    assert found[f"ssim_{role}"] == pytest.approx(mean, abs=1e-10) == pytest.approx(inner.mean(), abs=1e-10)
    assert found[f"ssim_{outside}"] == pytest.approx(inner[windows_outside(edited)].mean(), abs=1e-10)
    assert 0.05 < found[f"ssim_{role}"] < 0.99
    np.testing.assert_allclose(ssim_map(luma(Image.fromarray(output)), luma(Image.fromarray(other))), inner, atol=1e-10)


def test_l1_l2_psnr_and_ssim_are_those_of_torchmetrics(tmp_path: Path, pictures: Any) -> None:
    import torch
    from torchmetrics.functional import mean_absolute_error, mean_squared_error
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    output, other, edited = pictures
    found = scored(tmp_path, "source", output, other, edited)
    a, b = (torch.from_numpy(picture / 255) for picture in (output, other))
    outside = torch.from_numpy(~edited)
    for name, (x, y) in {"source": (a, b), "outside": (a[outside], b[outside])}.items():
        x, y = x.contiguous(), y.contiguous()
        assert found[f"l1_{name}"] == pytest.approx(mean_absolute_error(x, y).item(), rel=1e-6)
        assert found[f"l2_{name}"] == pytest.approx(mean_squared_error(x, y).item(), rel=1e-6)
        assert found[f"psnr_{name}"] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1.0).item(), rel=1e-6)
    lumas = [torch.from_numpy(luma(Image.fromarray(picture)))[None, None] for picture in (output, other)]
    _, whole = structural_similarity_index_measure(*lumas, sigma=1.5, data_range=255.0, return_full_image=True)
    # Its mean is also over windows that reach over the border, where it mirrors the picture; ours lie in the picture.
    inner = whole[0, 0, 5:-5, 5:-5].numpy()
    assert found["ssim_source"] == pytest.approx(inner.mean(), abs=1e-9)
    assert found["ssim_outside"] == pytest.approx(inner[windows_outside(edited)].mean(), abs=1e-9)


def blocks(seed: int, side: int, factor: int) -> np.ndarray:
    """Squares of random colours; the same on every machine."""
    small = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, factor, 0), factor, 1)


EDGES = {
    "blocks": (lambda: blocks(1, 20, 3), 1579, "3e66328127a03663"),
    "noise": (lambda: blocks(2, 60, 1), 1292, "a003e1fd03c0c3b0"),
    "world 3": (lambda: sample(0, 3).target, 437, "c558b16f105ff49c"),
    "world 8": (lambda: sample(0, 8).target, 437, "3644fd5ffa74ea27"),
}
"""Pixels that cv2.Canny(picture, 100, 200) of OpenCV 5.0.0 takes for edges: how many, and a digest of where."""


@pytest.mark.parametrize("name", EDGES)
def test_edges_are_those_that_opencv_found(name: str) -> None:
    make, count, digest = EDGES[name]
    found = canny(make())
    assert int(found.sum()) == count
    assert hashlib.sha256(np.packbits(found).tobytes()).hexdigest().startswith(digest)


def test_edges_are_those_of_an_opencv_that_is_installed() -> None:
    cv2 = pytest.importorskip("cv2")
    pictures = [blocks(seed, 60 // factor + 7, factor) for seed in range(40) for factor in (1, 2, 3, 5)]
    pictures += [sample(0, number).target for number in range(60)]
    pictures += [soft(seed) for seed in range(60)]
    for picture in pictures:
        for low, high in ((100, 200), (30, 60)):
            theirs = cv2.Canny(np.ascontiguousarray(picture), low, high) > 0
            assert np.array_equal(canny(picture, low, high), theirs)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (5, -3), (-11, 8)])
def test_a_shift_is_that_of_scikit_image(right: int, down: int) -> None:
    small = np.random.default_rng(4).integers(0, 256, (60, 80), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC))
    source, output = large[40:260, 40:360], large[40 - down : 260 - down, 40 - right : 360 - right]
    theirs, _, _ = phase_cross_correlation(source, output, upsample_factor=10)
    found = align(Image.fromarray(source), Image.fromarray(output))
    assert (found.down, found.right) == pytest.approx(tuple(-theirs), abs=0.35)
    assert (found.down, found.right) == pytest.approx((down, right), abs=0.35)
    assert found.zoom == pytest.approx(1, abs=0.004)
