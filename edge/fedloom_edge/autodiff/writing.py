"""What every graph that is made of a forward pass needs: live nodes, names of outputs, a model around it."""

from typing import Any

import onnx
from onnx import helper

from fedloom_edge.autodiff.forward import OPSET, Forward
from fedloom_edge.autodiff.values import Value
from fedloom_edge.errors import InputError
from fedloom_edge.step_settings import GRADIENT, LOSS, LR, MU, NORM, NORMS, SEED, STEP, TARGET

BATCH = "batch"
"""Name of the axis that follows the batch; a runtime may fix it."""


def live_nodes(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that some wanted value needs, in order."""
    wanted, live = set(wanted), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            live.append(node)
    return live[::-1]


def named_outputs(nodes: list[onnx.NodeProto], outputs: dict[str, str]) -> list[onnx.NodeProto]:
    """The same nodes, with each output of the graph under its name."""
    named: dict[str, str] = {}
    copies = []
    made = {name for node in nodes for name in node.output}
    for name, value in outputs.items():
        if value in made and value not in named:
            named[value] = name
        else:  # an input of the graph, or another output's value too
            copies.append(helper.make_node("Identity", [named.get(value, value)], [name]))
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in named:
                    names[index] = named[name]
    return nodes + copies


def value_info(name: str, value: Value, as_name: str = "") -> onnx.ValueInfoProto:
    """An input or output of a graph."""
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    shape: list[Any] = [BATCH if size is None else size for size in value.shape]
    return helper.make_tensor_value_info(as_name or name, kind, shape)


def model_of(graph: onnx.GraphProto, forward: Forward, facts: dict[str, str]) -> onnx.ModelProto:
    """A model of `graph`, with the metadata of the one it comes from and `facts`."""
    version = max(forward.opset, OPSET)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    made.ir_version = min(made.ir_version, 10)  # what the oldest supported runtime reads
    helper.set_model_props(made, forward.metadata | facts)
    return made


def check_names(forward: Forward) -> None:
    """Refuse a model whose names a train step uses itself.

    Raises:
        InputError: it has one.
    """
    reserved = {LR, SEED, STEP, TARGET, MU, LOSS, NORM, NORMS, GRADIENT}
    taken = reserved & {*forward.inputs, *forward.arrays}
    if taken:
        raise InputError(f"the model's {min(taken)!r} has a name that a train step uses; rename it")
