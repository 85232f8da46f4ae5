"""Reads an inference or training graph: its nodes, its arrays, and what is known of every value.

Shapes are measured, not inferred: the graph runs twice, with batches of different sizes and all values
as outputs. What has another size then follows the batch; what depends on neither inputs nor arrays, and
is the same both times, is a constant, however the exporter computed it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper, version_converter

from fedloom_edge.autodiff.values import Node, Value
from fedloom_edge.errors import InputError

OPSET = 18
"""The oldest operator set that a step graph is written in."""
_STATISTICS = slice(3, 5)  # of BatchNormalization's inputs: running mean and variance
_LARGEST_CONSTANT = 1 << 20


@dataclass(frozen=True)
class Forward:
    """A graph to be differentiated.

    Attributes:
        nodes: in order, without those that make constants.
        protos: the same nodes as ONNX has them.
        values: of every name in the graph.
        arrays: initialisers by name, in the graph's order.
        inputs: names of the data inputs; their first axis is the batch.
        output: name of the only output that is trained on.
        statistics: names of running means and variances.
        opset: version of the operator set.
        metadata: of the model.
    """

    nodes: tuple[Node, ...]
    protos: tuple[onnx.NodeProto, ...]
    values: dict[str, Value]
    arrays: dict[str, NDArray[Any]]
    inputs: tuple[str, ...]
    output: str
    statistics: tuple[str, ...]
    opset: int
    metadata: dict[str, str]


def read_forward(model: onnx.ModelProto, batch: int) -> Forward:
    """Analyse a model, which stays as it is.

    Args:
        model: one output at least, the first is used; every input's first axis is the batch.
        batch: the usual batch size.

    Raises:
        InputError: the model is not valid, or an axis other than the first varies.
    """
    plain = _plain(model)
    graph = plain.graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    inputs = tuple(i.name for i in graph.input if i.name not in arrays)
    if not inputs:
        raise InputError("the model has no input besides its arrays")
    values = _measure(plain, inputs, arrays, batch)
    kept = [n for n in graph.node if any(o and values[o].constant is None for o in n.output)]
    statistics = [s for n in kept if n.op_type == "BatchNormalization" for s in n.input[_STATISTICS]]
    return Forward(
        tuple(map(_node, kept)),
        tuple(kept),
        values,
        arrays,
        inputs,
        graph.output[0].name,
        tuple(dict.fromkeys(statistics)),
        next(o.version for o in plain.opset_import if o.domain in ("", "ai.onnx")),
        {p.key: p.value for p in model.metadata_props},
    )


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without local functions, in a known operator set, with inference forms that any runtime has."""
    try:
        onnx.checker.check_model(model)
        plain = inliner.inline_local_functions(model) if model.functions else model
        version = next(o.version for o in plain.opset_import if o.domain in ("", "ai.onnx"))
        plain = version_converter.convert_version(plain, OPSET) if version < OPSET else plain
    except (onnx.checker.ValidationError, RuntimeError, ValueError, StopIteration) as error:
        raise InputError(f"the model is no valid ONNX graph: {str(error).strip().splitlines()[0]}") from error
    copy = onnx.ModelProto()
    copy.CopyFrom(plain)
    for node in copy.graph.node:
        if node.op_type == "BatchNormalization":
            for attribute in [a for a in node.attribute if a.name == "training_mode"]:
                node.attribute.remove(attribute)
            del node.output[1:]
    return copy


def _measure(
    model: onnx.ModelProto, inputs: tuple[str, ...], arrays: dict[str, NDArray[Any]], batch: int
) -> dict[str, Value]:
    names = list(dict.fromkeys(o for n in model.graph.node for o in n.output if o))
    first = _run(model, inputs, names, batch)
    fixed = not any(_follows(i) for i in model.graph.input if i.name in inputs)
    second = first if fixed else _run(model, inputs, names, batch + 1)
    weights = {name for name, array in arrays.items() if array.dtype == np.float32}
    data = _depending_on_data(model, {*inputs, *weights})
    values = {
        name: Value(a.dtype, a.shape, a.shape, None if name in weights else a) for name, a in arrays.items()
    }
    for name, one in first.items():
        two = second[name]
        shape = tuple(a if a == b else None for a, b in zip(one.shape, two.shape, strict=True))
        same = name not in data and None not in shape and one.size <= _LARGEST_CONSTANT
        constant = one if same and np.array_equal(one, two, equal_nan=one.dtype.kind == "f") else None
        values[name] = Value(one.dtype, shape, one.shape, constant)
    return values


def _run(
    model: onnx.ModelProto, inputs: tuple[str, ...], names: list[str], batch: int
) -> dict[str, NDArray[Any]]:
    """Every value of the graph for a batch of zeros."""
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    feeds = {i.name: _zeros(i, batch) for i in probe.graph.input if i.name in inputs}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results = session.run(names, feeds)
    except Exception as error:  # onnxruntime's errors share no base but this one
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"onnxruntime cannot run the model: {reason}") from error
    return {**feeds, **{name: np.asarray(a) for name, a in zip(names, results, strict=True)}}


def _zeros(value: onnx.ValueInfoProto, batch: int) -> NDArray[Any]:
    kind = value.type.tensor_type
    sizes = [d.dim_value or None for d in kind.shape.dim]
    if not kind.HasField("shape") or None in sizes[1:]:
        raise InputError(
            f"input {value.name!r} has a variable axis besides the first, the batch: export the model "
            "with the others fixed"
        )
    shape = [batch if i == 0 and size is None else size or 0 for i, size in enumerate(sizes)]
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _follows(value: onnx.ValueInfoProto) -> bool:
    dimensions = value.type.tensor_type.shape.dim
    return bool(dimensions) and not dimensions[0].dim_value


def _depending_on_data(model: onnx.ModelProto, sources: set[str]) -> set[str]:
    """Names whose contents, and not only shapes, depend on `sources`."""
    data = set(sources)
    for node in model.graph.node:
        reads = {*node.input, *_outer_names(node)}
        if node.op_type not in ("Shape", "Size") and reads & data:
            data.update(node.output)
    return data


def _outer_names(node: onnx.NodeProto) -> Iterator[str]:
    """What a node's subgraphs read; names of their own among them do no harm."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from inner.input
                yield from _outer_names(inner)


def _node(proto: onnx.NodeProto) -> Node:
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    return Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, {})
