"""Writes the forward pass of a train step: the model's nodes, some in a form that trains."""

import json

import onnx

from fedloom_edge.autodiff.depthwise import is_small_depthwise, lower_small_depthwise
from fedloom_edge.autodiff.dropout import lower_dropout
from fedloom_edge.autodiff.forward import Forward
from fedloom_edge.autodiff.normalisation import lower_batch_norm, lower_instance_norm, lower_layer_norm
from fedloom_edge.autodiff.pooling import lower_max_pool
from fedloom_edge.autodiff.recurrent import lower_recurrent
from fedloom_edge.autodiff.rules import FLAT, Tape
from fedloom_edge.autodiff.values import Node, Value
from fedloom_edge.step_settings import SEED, STEP, StepSettings

PADDING_ROWS = "fedloom.padding_rows"
"""Metadata key: embedding -> the row that is never trained (PyTorch's padding_idx), as JSON."""


def write_forward(
    forward: Forward,
    trainable: tuple[str, ...],
    settings: StepSettings,
    g: Tape,
    given: frozenset[str] = frozenset(),
    *,
    awake: bool = False,
) -> dict[str, str]:
    """Write the forward pass, and note in `g` what a gradient is needed of; nodes go to `g.forward`.

    Arrays that are neither trainable nor `given` from outside are constants. What stands before all
    trainable ones stays as in evaluation unless `awake`.

    Returns:
        New value's name for each running statistic that the step updates.
    """
    g.values.update(forward.values)
    g.active.update(trainable)
    for name, array in forward.arrays.items():
        if name not in trainable and name not in given:
            g.values[name] = Value(array.dtype, array.shape, array.shape, array)
    g.constants.update({k: v.constant for k, v in g.values.items() if v.constant is not None})
    padding = json.loads(forward.metadata.get(PADDING_ROWS, "{}"))
    new_statistics: dict[str, str] = {}
    drops = 0
    for node, proto in zip(forward.nodes, forward.protos, strict=True):
        active = any(name in g.active for name in node.inputs) and node.op not in FLAT
        if active:
            straight = node.op == "QuantizeLinear"  # see autodiff.quantisation
            g.active.update(n for n in node.outputs if n and (straight or g.values[n].is_float))
        trains = active or (awake and node.op in ("Dropout", "BatchNormalization"))
        match node.op if trains else "Dropout" * (node.op == "Dropout"):
            case "Dropout" if trains:
                drops += 1
                written = lower_dropout(node, drops, SEED, STEP, g)
            case "Dropout":
                g.write("Identity", node.inputs[:1], node.outputs[:1], {})
                written = node
            case "BatchNormalization" if settings.batch_statistics:
                written, news = lower_batch_norm(node, g)
                for name in news:
                    g.constants.pop(name, None)
                    old = g.values[name]
                    g.values[name] = Value(old.dtype, old.shape, old.typical)
                new_statistics |= news
            case "LayerNormalization":
                written = lower_layer_norm(node, g)
            case "InstanceNormalization":
                written = lower_instance_norm(node, g)
            case "GRU" | "LSTM" | "RNN":
                written = lower_recurrent(node, g)
            case "Conv" if is_small_depthwise(node, g):
                written = lower_small_depthwise(node, g)
            case "MaxPool":
                written = lower_max_pool(node, g)
            case "Gather" if node.inputs[0] in padding:
                written = _copied(node, proto, g, {"padding row": str(padding[node.inputs[0]])})
            case _:
                written = _copied(node, proto, g, {})
        g.forward.append(written)
    return new_statistics


def _copied(node: Node, proto: onnx.NodeProto, g: Tape, saved: dict[str, str]) -> Node:
    g.nodes.append(proto)
    return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, saved)
