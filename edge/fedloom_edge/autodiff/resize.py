"""The matrix by which Resize maps one axis, measured by resizing unit vectors."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError


def resize_matrix(node: Node, axis: int, g: Tape) -> NDArray[np.float32]:
    """Matrix R (result size, source size) with y = R x along `axis`.

    Raises:
        InputError: the mode of resizing is not one along each axis on its own.
    """
    import onnxruntime

    if any(node.input(index) for index in (1,)):
        raise InputError(f"{node} resizes a region of interest; export the model without that")
    source, result = (g.values[name].typical[axis] for name in (node.inputs[0], node.outputs[0]))
    unit = np.eye(source, dtype=np.float32)[:, np.newaxis, np.newaxis]  # (source, 1, 1, source)
    attributes = {k: v for k, v in node.attributes.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    model = _model(attributes, source, result, _scale(node, axis, g))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"x": unit})[0]
    return np.ascontiguousarray(output[:, 0, 0].T)


def _model(attributes: dict[str, Any], source: int, result: int, scale: float | None) -> onnx.ModelProto:
    given = ["x", "", "scales"] if scale is not None else ["x", "", "", "sizes"]
    values = (
        [onnx.numpy_helper.from_array(np.array([1, 1, 1, scale], np.float32), "scales")]
        if scale is not None
        else [onnx.numpy_helper.from_array(np.array([source, 1, 1, result], np.int64), "sizes")]
    )
    graph = helper.make_graph(
        [helper.make_node("Resize", given, ["y"], **attributes)],
        "resize",
        [helper.make_tensor_value_info("x", 1, [source, 1, 1, source])],
        [helper.make_tensor_value_info("y", 1, [source, 1, 1, result])],
        values,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _scale(node: Node, axis: int, g: Tape) -> float | None:
    """The given scale of an axis; None where sizes are given."""
    if not node.input(2):
        return None
    scales = g.values[node.inputs[2]].constant
    if scales is None:
        if node.input(3):
            return None
        raise InputError(f"{node} takes its scales from a computed value; export the model with fixed ones")
    axes = [int(a) for a in node.attributes.get("axes", range(scales.size))]
    return float(scales.reshape(-1)[axes.index(axis)]) if axis in axes else 1.0
