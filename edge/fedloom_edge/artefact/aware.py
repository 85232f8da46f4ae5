"""Quantisation-aware training: a training graph that rounds as the int8 model does. Needs onnx.

The int8 model's integer arrays become float ones that are rounded in the graph, so that gradients reach
them (see `autodiff.quantisation`); activations keep the ranges that were observed at calibration.
"""

import json

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fedloom_edge.artefact.rounding import LARGEST, SMALLEST_SCALE, Rounded
from fedloom_edge.autodiff.trainable import PARAMETERS
from fedloom_edge.errors import InputError

_INT8, _INT32 = onnx.TensorProto.INT8, onnx.TensorProto.INT32


def aware(folded: onnx.ModelProto, rounded: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Rounded]]:
    """A training graph, and where each of its arrays is in the int8 model.

    Args:
        folded: the float model.
        rounded: its int8 form, of `fold_and_quantise`.

    Raises:
        InputError: a weight is quantised in a way that cannot be trained.
    """
    made = onnx.ModelProto()
    made.CopyFrom(rounded)
    graph = made.graph
    stored = {i.name: i for i in graph.initializer}
    floats = {i.name: i for i in folded.graph.initializer}
    makers = {output: node for node in rounded.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    places: dict[str, Rounded] = {}
    for node in rounded.graph.node:
        integers = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if integers is None or integers.data_type not in (_INT8, _INT32):
            nodes.append(node)
            continue
        name = integers.name.removesuffix("_quantized")
        if name not in floats or len(stored[node.input[1]].dims) != 1:
            raise InputError(f"array {name} is quantised in a way that cannot be trained; train without int8")
        graph.initializer.append(floats[name])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        places[name] = Rounded(integers.name, node.input[1], axis)
        if integers.data_type == _INT8:
            nodes += _rounding(name, node, len(integers.dims), axis, graph)
        else:  # a bias in float: int32 is finer than float32
            reader = next(r for r in rounded.graph.node if node.output[0] in r.input)
            weight = makers[reader.input[1]].input[0].removesuffix("_quantized")
            places[name] = Rounded(integers.name, node.input[1], 0, weight)
            if node.output[0] != name:
                nodes.append(helper.make_node("Identity", [name], [node.output[0]], name=f"{name}/bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    names = [i.name for i in kept if i.name in places]
    helper.set_model_props(made, {PARAMETERS: json.dumps(names)})
    return made, places


def _rounding(
    name: str, node: onnx.NodeProto, rank: int, axis: int, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Nodes that round the float array `name` per channel and write what `node` wrote."""
    axes = np.array([a for a in range(rank) if a != axis], np.int64)
    constants = {"axes": axes, "largest": np.float32(LARGEST), "smallest": np.float32(SMALLEST_SCALE)}
    for key, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}/{key}"))
    own = {key: f"{name}/{key}" for key in (*constants, "abs", "max", "ratio", "scale", "q")}
    make = helper.make_node
    return [
        make("Abs", [name], [own["abs"]]),
        make("ReduceMax", [own["abs"], own["axes"]], [own["max"]], keepdims=0),
        make("Div", [own["max"], own["largest"]], [own["ratio"]]),
        make("Max", [own["ratio"], own["smallest"]], [own["scale"]]),
        make("QuantizeLinear", [name, own["scale"], node.input[2]], [own["q"]], axis=axis),
        make("DequantizeLinear", [own["q"], own["scale"], node.input[2]], list(node.output), axis=axis),
    ]
