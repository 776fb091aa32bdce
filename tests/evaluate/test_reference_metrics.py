"""Faces and styles: the rules of ICE-Bench's evaluators, equal to plain computations, refused where unusable."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.reference_pairs import reference_pairs
from support.tiny_backbones import tiny_csd
from torch.nn import functional

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.evaluate.metrics.face import LADDER, Face, Faces
from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.metric import NoValue, Pair
from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics


def made(name: str, folder: Path, **choices: str) -> Learned:
    (metric,) = make_metrics([name], LearnedSettings({name: str(folder)}, {name: choices}, batch=4))
    assert isinstance(metric, Learned)
    return metric


# Style


@pytest.fixture(scope="module")
def csd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csd(tmp_path_factory.mktemp("csd") / "csd")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    return reference_pairs(tmp_path_factory.mktemp("pairs"), "style")


def plain_csd(file: Path, picture: Image.Image) -> torch.Tensor:
    """The style of a picture as OpenAI's code computes it, written out."""
    w = {name.removeprefix("module."): tensor for name, tensor in load_file(file).items()}
    short = min(picture.size)
    size = (int(32 * picture.width / short), int(32 * picture.height / short))
    x = torch.from_numpy(np.array(picture.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1)[None] / 255
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    x = x[:, :, top : top + 32, left : left + 32]
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    x = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    x = functional.conv2d(x, w["backbone.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["backbone.class_embedding"].expand(1, 1, -1), x], dim=1) + w["backbone.positional_embedding"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"backbone.{name}.weight"], w[f"backbone.{name}.bias"])

    x = norm(x, "ln_pre").transpose(0, 1)
    for block in range(2):
        name = f"transformer.resblocks.{block}"
        attention = torch.nn.MultiheadAttention(128, 2)
        parts = {key: w[f"backbone.{name}.attn.{key}"] for key in attention.state_dict()}
        attention.load_state_dict(parts)
        y = norm(x, f"{name}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = norm(x, f"{name}.ln_2") @ w[f"backbone.{name}.mlp.c_fc.weight"].T + w[f"backbone.{name}.mlp.c_fc.bias"]
        y = y * torch.sigmoid(1.702 * y)
        x = x + y @ w[f"backbone.{name}.mlp.c_proj.weight"].T + w[f"backbone.{name}.mlp.c_proj.bias"]
    return functional.normalize(norm(x[0], "ln_post") @ w["last_layer_style"], dim=-1)[0]


def test_style_is_a_plain_computation_of_the_published_shape(csd: Path, pairs: list[Pair]) -> None:
    with torch.no_grad():
        seen = {
            id(pair): [plain_csd(csd / "csd.safetensors", one) for one in (pair.output, *map(pair.reference, (0, 1)))]
            for pair in pairs
        }
    for refs, join in (("first", lambda own: own[0]), ("mean", np.mean), ("max", max)):
        found = [one["style_ref"] for one in made("style", csd, refs=refs).many(pairs)]
        wanted = [join([float(output @ one) for one in others]) for output, *others in seen.values()]
        assert found == pytest.approx(wanted, abs=1e-5), refs
    assert len({round(value, 4) for value in wanted}) == len(pairs), "the pairs differ"


def test_a_reference_of_one_pixel_fails_alone(csd: Path, pairs: list[Pair]) -> None:
    metric = made("style", csd)
    Image.new("RGB", (1, 1)).save(pairs[0].prepared.folder / "one.png")
    tiny = Pair(pairs[0].case.model_copy(update={"refs": ("one.png",)}), pairs[0].output, pairs[0].prepared)
    first, second = metric.many([tiny, pairs[1]])
    assert isinstance(first["style_ref"], NoValue)
    assert first["style_ref"].status == "failed"
    assert "1x1 pixels" in first["style_ref"].reason
    assert second == metric(pairs[1])
    faces = pairs[0].case.model_copy(update={"meta": {"reference": "face"}})
    assert metric(Pair(faces, pairs[0].output, pairs[0].prepared))["style_ref"] == NoValue(
        "not_applicable", "its reference shows a face"
    )


def test_another_checkpoint_than_csd_is_refused(csd: Path, tmp_path: Path) -> None:
    def altered(change: str) -> Path:
        folder = shutil.copytree(csd, tmp_path / change)
        file = folder / "csd.safetensors"
        tensors = load_file(file)
        if change == "missing":
            del tensors["module.backbone.transformer.resblocks.1.mlp.c_fc.bias"]
        if change == "shape":
            tensors["module.last_layer_style"] = torch.zeros(3, 3)
        if change == "other":
            tensors = {"weight": torch.zeros(2)}
        if change == "nan":
            tensors["module.last_layer_style"][0, 0] = float("nan")
        save_file(tensors, file)
        if change == "cut":
            file.write_bytes(file.read_bytes()[:-50])
        return folder

    for change, sentence in {
        "missing": "is no CSD .*c_fc|is no CSD .*fc1",
        "shape": "'last_layer_style' is of",
        "other": "has no tensor 'backbone.conv1.weight'",
        "nan": "not finite",
        "cut": "cannot be read",
    }.items():
        with pytest.raises(CheckpointError, match=sentence):
            made("style", altered(change)).load()
    with pytest.raises(MissingError, match=r"has no file 'csd.safetensors'"):
        made("style", tmp_path)
    with pytest.raises(UsageError, match=r"a folder with csd.safetensors of tomg-group-umd/CSD-ViT-L"):
        make_metrics(["style"], LearnedSettings())


# Faces


class Detector:
    """Finds as many faces as a picture is bright, at one size of the ladder alone; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes]] = []

    def detect(self, pixels: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((input_size[0], pixels[0, 0].tobytes()))
        count = int(pixels[0, 0, 0]) if input_size == (LADDER[2], LADDER[2]) else 0
        boxes = [[0, 0, 1 + number, 2, 0.9] for number in range(count)]
        return np.array(boxes, dtype=np.float32).reshape(count, 5), np.arange(10.0 * count).reshape(count, 5, 2)


class Recogniser:
    """An embedding of length 3 in a direction that depends on the face's place among those of the picture."""

    output_shape = (1, 4)

    def get(self, pixels: np.ndarray, face: Any) -> np.ndarray:
        place = int(face.kps[0, 0] // 10)
        angle = 0.3 * place + (1.0 if pixels[0, 0, 2] > 100 else 0.0)
        return 3 * np.array([np.cos(angle), np.sin(angle), 0, 0], dtype=np.float32)


def faces_in(folder: Path, output: int, references: tuple[int, ...], blue: int = 200) -> Pair:
    """A pair with so many faces in the output and in each reference."""
    (pair, *_) = reference_pairs(folder, "face", 1)
    names = []
    for place, count in enumerate(references):
        names.append(f"faces {place}.png")
        Image.new("RGB", (20, 20), (count, 0, 0)).save(folder / names[-1])
    return Pair(
        pair.case.model_copy(update={"refs": tuple(names)}),
        Image.new("RGB", (20, 20), (output, 0, blue)),
        pair.prepared,
    )


@pytest.fixture
def face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The metric with a scripted detector, by choices."""
    folder = tmp_path / "buffalo_l"
    folder.mkdir()
    for name in Face.files:
        (folder / name).write_bytes(name.encode())
    monkeypatch.setattr(Face, "read", lambda self: (Detector(), Recogniser()))
    return lambda **choices: made("face", folder, **choices)


def test_faces_are_compared_as_by_ice_bench(face: Any, tmp_path: Path) -> None:
    def value(output: int, *references: int, **choices: str) -> Any:
        return face(**choices)(faces_in(tmp_path, output, references))["face_ref"]

    # Angles of the output's faces: 1.0, 1.3, ...; of a reference's: 0, 0.3, ...
    assert value(2, 3) == pytest.approx(np.cos(1.0))
    assert value(2, 3, reference="largest") == pytest.approx(np.cos(1.0 - 0.6))
    assert value(2, 3, 1, refs="mean", reference="largest") == pytest.approx((np.cos(0.4) + np.cos(1.0)) / 2)
    assert value(2, 1, 3, refs="max", reference="largest") == pytest.approx(np.cos(0.4))
    for output, reference, where in ((0, 1, "the output"), (1, 0, "a reference")):
        assert value(output, reference) == 0.0
        assert value(output, reference, none="missing") == NoValue("undefined", f"no face was found in {where}")
    assert value(1, 1, 0, refs="mean") == pytest.approx(np.cos(1.0) / 2)
    assert value(1, 1, 0, refs="mean", none="missing") == pytest.approx(np.cos(1.0))


def test_sizes_of_the_detector_are_tried_in_turn_and_it_is_handed_rgb(face: Any, tmp_path: Path) -> None:
    metric = face()
    pair = faces_in(tmp_path, 1, (1,), blue=9)
    metric(pair)
    detector = metric.load()[0]
    assert [side for side, _ in detector.asked] == [640, 480, 384] * 2
    assert detector.asked[0][1] == bytes([1, 0, 9])
    metric(faces_in(tmp_path, 0, (1,)))
    assert [side for side, _ in detector.asked[6:]] == list(LADDER)
    turned = face(channels="bgr")
    turned(pair)
    assert turned.load()[0].asked[0][1] == bytes([9, 0, 1])


def test_each_picture_is_looked_at_once(face: Any, tmp_path: Path) -> None:
    metric = face()
    pair = faces_in(tmp_path, 1, (1,))
    values = metric.many([pair, pair, pair])
    assert values == [metric(pair)] * 3
    assert len(metric.load()[0].asked) == 3 * (3 + 1 + 1), "three outputs, the reference once, and an output"


def test_without_insightface_the_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagmoe.extras.find_spec", lambda name: None)
    for name in Face.files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(MissingError, match=r"The metric 'face' needs insightface, .* pip install insightface"):
        made("face", tmp_path)(faces_in(tmp_path, 1, (1,)))
    with pytest.raises(UsageError, match=r"det_10g.onnx, w600k_r50.onnx of InsightFace's buffalo_l .*non-commercial"):
        make_metrics(["face"], LearnedSettings())


def test_the_largest_face_is_that_of_the_largest_box() -> None:
    faces = Faces(np.array([[0, 0, 2, 2], [0, 0, 3, 3], [9, 9, 10, 10]], dtype=np.float32), np.eye(3))
    assert faces.one("first").tolist() == [1, 0, 0]
    assert faces.one("largest").tolist() == [0, 1, 0]
