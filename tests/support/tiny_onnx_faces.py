"""Networks with random weights that have the inputs and outputs of InsightFace's buffalo_l, in ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def tiny_buffalo(folder: Path) -> Path:
    """A detector (scores, boxes and landmarks at three strides) and a recogniser (112x112 to 512 numbers)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, name))
        return name

    def write(name: str, inputs: list[object], outputs: list[object]) -> None:
        graph = helper.make_graph(nodes, name, inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, str(folder / name))
        nodes.clear()
        weights.clear()

    folder.mkdir()
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "?", "?"])
    outputs = []
    # In the order of the graph: scores, boxes, landmarks, each at strides 8, 16 and 32, two anchors a place.
    for what, width, scale, shift in (("score", 1, 2.0, -1.5), ("bbox", 4, 0.3, 2.0), ("kps", 10, 1.0, 0.0)):
        for stride in (8, 16, 32):
            name = f"{what}_{stride}"
            kernel = scale * generator.normal(size=(2 * width, 3, stride, stride)) / stride
            bias = np.full(2 * width, shift)
            nodes.append(
                helper.make_node(
                    "Conv",
                    [
                        "input.1",
                        weight(f"{name} w", kernel.astype(np.float32)),
                        weight(f"{name} b", bias.astype(np.float32)),
                    ],
                    [f"{name} map"],
                    strides=[stride, stride],
                )
            )
            last = f"{name} map"
            if what == "score":
                nodes.append(helper.make_node("Sigmoid", [last], [f"{name} p"]))
                last = f"{name} p"
            nodes.append(helper.make_node("Transpose", [last], [f"{name} t"], perm=[2, 3, 0, 1]))
            nodes.append(helper.make_node("Reshape", [f"{name} t", weight(f"{name} s", np.array([-1, width]))], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["?", width]))
    write("det_10g.onnx", [picture], outputs)
    face = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, 112, 112])
    kernel = generator.normal(size=(8, 3, 16, 16)).astype(np.float32)
    nodes.append(helper.make_node("Conv", ["input.1", weight("w", kernel)], ["map"], strides=[16, 16]))
    nodes.append(helper.make_node("Flatten", ["map"], ["flat"]))
    matrix = generator.normal(size=(8 * 49, 512)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["flat", weight("m", matrix)], ["683"]))
    write("w600k_r50.onnx", [face], [helper.make_tensor_value_info("683", TensorProto.FLOAT, ["None", 512])])
    return folder
