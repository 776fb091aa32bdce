"""Tiny networks in ONNX files: a map of brightness, and a drawer with two styles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def bright_map(file: Path, *, channels: int = 1, steepness: float = 40.0) -> Path:
    """A network that finds what is brighter than the middle: (1, 3, H, W) of 0 to 1 to (1, channels, H, W)."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.full((channels, 3, 1, 1), steepness / 3, np.float32)
    bias = np.full(channels, -steepness / 2, np.float32)
    nodes = [
        helper.make_node("Conv", ["picture", "kernel", "bias"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["map"]),
    ]
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, "h", "w"])
    found = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, channels, "h", "w"])
    return _write(file, nodes, [picture], [found], weights)


def two_styles(file: Path) -> Path:
    """A network that draws a negative (style 0) or the picture darker (style 1)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Sub", ["one", "image"], ["negative"]),
        helper.make_node("Mul", ["image", "quarter"], ["dark"]),
        helper.make_node("Split", ["style_weights"], ["first", "second"], axis=0, num_outputs=2),
        helper.make_node("Mul", ["negative", "first"], ["a"]),
        helper.make_node("Mul", ["dark", "second"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["drawn"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array(0.25, np.float32), "quarter"),
    ]
    picture = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])
    given = helper.make_tensor_value_info("style_weights", TensorProto.FLOAT, [2])
    drawn = helper.make_tensor_value_info("drawn", TensorProto.FLOAT, [1, 3, 64, 64])
    return _write(file, nodes, [picture, given], [drawn], weights)


def _write(file: Path, nodes: Sequence, inputs: Sequence, outputs: Sequence, weights: Sequence) -> Path:
    import onnx
    from onnx import helper

    graph = helper.make_graph(nodes, file.stem, inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(file))
    return file
