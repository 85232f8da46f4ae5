"""Low-rank adapters beside the matrices of a model: W x + s B A x, of which A and B alone are trained.

Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. B starts at zero, so the
model starts unchanged. A convolution's A has its kernel and strides, its B is 1x1.
"""

import json
import math
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fedloom_edge.arrays import Arrays
from fedloom_edge.autodiff.trainable import LORA, PARAMETERS
from fedloom_edge.errors import InputError

_SCALE = "fedloom.lora_scale"


def add_lora(
    model: onnx.ModelProto, rank: int, *, scale: float = 1.0, targets: str = "*", seed: int = 0
) -> onnx.ModelProto:
    """A copy of `model` with adapters `lora/NAME/a` and `/b` beside its weights; train it with `lora`.

    Args:
        model: Gemm, MatMul and Conv (without groups) get adapters where an array is their weight.
        rank: inner size of the adapters, at least 1.
        scale: s.
        targets: pattern of the weights' names.
        seed: of A's start, uniform within 1/√(its inputs).

    Raises:
        InputError: the rank is below 1, or no weight matches.
    """
    if rank < 1:
        raise InputError(f"LoRA's rank is {rank}; it must be at least 1")
    adapted = onnx.ModelProto()
    adapted.CopyFrom(model)
    graph, rng = adapted.graph, np.random.default_rng(seed)
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    turned = {
        n.output[0]: n.input[0] for n in graph.node if n.op_type == "Transpose" and n.input[0] in arrays
    }
    nodes: list[onnx.NodeProto] = []
    names: list[str] = []
    for node in graph.node:
        nodes.append(node)
        weight = _weight(node, arrays, turned)
        if weight is None or not fnmatchcase(weight, targets) or f"lora/{weight}/a" in names:
            continue
        nodes += _adapter(node, weight, arrays[weight], weight != node.input[1], rank, scale, rng, graph)
        names += [f"lora/{weight}/a", f"lora/{weight}/b"]
    if not names:
        raise InputError(f"no Gemm, MatMul or Conv has a weight that matches {targets!r}; no adapter fits")
    del graph.node[:]
    graph.node.extend(nodes)
    metadata = {p.key: p.value for p in model.metadata_props} | {_SCALE: str(scale), LORA: json.dumps(names)}
    if PARAMETERS in metadata:
        metadata[PARAMETERS] = json.dumps(json.loads(metadata[PARAMETERS]) + names)
    helper.set_model_props(adapted, metadata)
    return adapted


def merge_lora(model: onnx.ModelProto, arrays: Arrays) -> Arrays:
    """The weights W + s B A of a model with adapters, by name, for a model without.

    Args:
        model: what `add_lora` made; for what is not in `arrays` its own values are taken.
        arrays: trained adapters, and weights if those were trained too.
    """
    own = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer} | arrays
    metadata = {p.key: p.value for p in model.metadata_props}
    scale = float(metadata[_SCALE])
    merged = {}
    for name in json.loads(metadata[LORA])[::2]:
        weight = name.removeprefix("lora/").removesuffix("/a")
        a, b = own[name], own[f"lora/{weight}/b"]
        if a.ndim > 2:
            product = np.tensordot(b.reshape(b.shape[:2]), a, 1)  # (M, r) (r, C, ...)
        else:
            product = a @ b  # (in, r) (r, out)
            product = product.T if _is_turned(model, weight) else product
        merged[weight] = (own[weight] + np.float32(scale) * product).astype(np.float32)
    return merged


def _weight(node: onnx.NodeProto, arrays: Arrays, turned: dict[str, str]) -> str | None:
    """Name of the float32 weight that a node can have an adapter for."""
    if node.op_type not in ("Gemm", "MatMul", "Conv"):
        return None
    name = turned.get(node.input[1], node.input[1])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if name not in arrays or arrays[name].dtype != np.float32 or arrays[name].ndim < 2:
        return None
    if node.op_type == "Conv":
        return name if attributes.get("group", 1) == 1 else None
    return name if arrays[name].ndim == 2 and not attributes.get("transA", 0) else None


def _adapter(
    node: onnx.NodeProto,
    weight: str,
    array: NDArray[Any],
    turned: bool,
    rank: int,
    scale: float,
    rng: np.random.Generator,
    graph: onnx.GraphProto,
) -> list[onnx.NodeProto]:
    """Add a node's adapter; the node's output is renamed, and its old name is the sum's."""
    name, output = f"lora/{weight}", node.output[0]
    node.output[0] = f"{name}/plain"
    if node.op_type == "Conv":
        inputs = math.prod(array.shape[1:])
        a_shape: tuple[int, ...] = (rank, *array.shape[1:])
        b_shape: tuple[int, ...] = (array.shape[0], rank, *[1] * (array.ndim - 2))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        first = helper.make_node("Conv", [node.input[0], f"{name}/a"], [f"{name}/low"], **attributes)
        second = helper.make_node("Conv", [f"{name}/low", f"{name}/b"], [f"{name}/high"])
    else:
        flipped = turned or any(a.name == "transB" and a.i for a in node.attribute)
        inputs, outputs = array.shape[::-1] if flipped else array.shape
        a_shape, b_shape = (inputs, rank), (rank, outputs)
        first = helper.make_node("MatMul", [node.input[0], f"{name}/a"], [f"{name}/low"])
        second = helper.make_node("MatMul", [f"{name}/low", f"{name}/b"], [f"{name}/high"])
    bound = 1 / math.sqrt(inputs)
    start = rng.uniform(-bound, bound, a_shape).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(start, f"{name}/a"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(b_shape, np.float32), f"{name}/b"))
    factor = helper.make_tensor(f"{name}/scale", onnx.TensorProto.FLOAT, [], [scale])
    constant = helper.make_node("Constant", [], [f"{name}/scale"], value=factor)
    scaled = helper.make_node("Mul", [f"{name}/high", f"{name}/scale"], [f"{name}/scaled"])
    total = helper.make_node("Add", [f"{name}/plain", f"{name}/scaled"], [output])
    return [first, second, constant, scaled, total]


def _is_turned(model: onnx.ModelProto, weight: str) -> bool:
    """Whether a weight is (out, in)."""
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] == weight:
            return True
        if node.op_type == "Gemm" and node.input[1] == weight:
            return any(a.name == "transB" and a.i for a in node.attribute)
    return False
