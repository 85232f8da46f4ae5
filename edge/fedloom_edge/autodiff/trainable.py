"""Which arrays of a graph are trained: all, the last layers, biases, batch norm, or names by pattern."""

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np

from fedloom_edge.autodiff.forward import Forward
from fedloom_edge.errors import InputError

PARAMETERS = "fedloom.parameters"
"""Metadata key: the names that the exporter knows as trainable, as a JSON list."""
LORA = "fedloom.lora"
"""Metadata key: the names of the adapters that `add_lora` made, as a JSON list."""
_BIAS_SLOT = {
    "Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2, "LayerNormalization": 2,
    "InstanceNormalization": 2, "GRU": 3, "LSTM": 3, "RNN": 3,
}  # fmt: skip


def select(forward: Forward, trainable: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the arrays to train, in the graph's order.

    Args:
        forward: the graph.
        trainable: `all`; `last:N`, the N layers nearest to the output; `biases`; `batch-norm`, its scales
            and biases; `lora`, the adapters of `add_lora`; or names or patterns (`encoder.*`), one or
            a sequence of them.

    Raises:
        InputError: nothing matches, an array is no float32, or a running statistic is named.
    """
    everything = parameters(forward)
    if isinstance(trainable, str):
        if trainable == "all":
            return everything
        if trainable == "biases":
            return _some(forward, everything, biases(forward), trainable)
        if trainable == "batch-norm":
            return _some(forward, everything, _batch_norm(forward), trainable)
        if trainable == "lora":
            adapters = set(json.loads(forward.metadata.get(LORA, "[]")))
            return _some(forward, everything, adapters, trainable)
        if trainable.startswith("last:"):
            return _last(forward, everything, trainable)
        trainable = [trainable]
    chosen: set[str] = set()
    for pattern in trainable:
        found = {name for name in forward.arrays if fnmatchcase(name, pattern)}
        if not found:
            raise InputError(
                f"trainable {pattern!r} matches no array; give all, last:N, biases, batch-norm, lora, names "
                f"or patterns of the model's {len(everything)} arrays, for example {everything[-1]}"
            )
        exact = pattern in forward.arrays
        chosen |= {name for name in found if exact or name in everything}
    for name in chosen:
        array = forward.arrays[name]
        if array.dtype != np.float32:
            raise InputError(
                f"trainable {name!r} is {array.dtype}; only float32 arrays can be trained: train another, "
                "or export the model in float32 (a quantised model is trained by adapters or its head)"
            )
        if name in forward.statistics:
            raise InputError(f"trainable {name!r} is a running statistic, which is measured and not trained")
    return _some(forward, tuple(forward.arrays), chosen, ", ".join(trainable))


def parameters(forward: Forward) -> tuple[str, ...]:
    """Every array that can be trained: the exporter's list, or the float32 ones with an axis at least."""
    listed = forward.metadata.get(PARAMETERS)
    if listed is not None:
        return tuple(name for name in json.loads(listed) if name in forward.arrays)
    return tuple(
        name
        for name, array in forward.arrays.items()
        if array.dtype == np.float32 and array.ndim and name not in forward.statistics
    )


def biases(forward: Forward) -> set[str]:
    """Arrays that are added: in an operator's bias place, or vectors in an Add."""
    found = set()
    for node in forward.nodes:
        slot = _BIAS_SLOT.get(node.op)
        if slot is not None and node.input(slot):
            found.add(node.input(slot))
        if node.op == "Add":
            found |= {
                name for name in node.inputs if name in forward.arrays and forward.arrays[name].ndim == 1
            }
    return found | {name for name in parameters(forward) if _last_word(name).startswith("bias")}


def _batch_norm(forward: Forward) -> set[str]:
    return {name for n in forward.nodes if n.op == "BatchNormalization" for name in n.inputs[1:3]}


def layers(forward: Forward) -> dict[str, list[str]]:
    """The arrays that can be trained by layer, in the order in which the graph first reads them."""
    everything, found = parameters(forward), dict[str, list[str]]()
    for index, node in enumerate(forward.nodes):
        for name in node.inputs:
            if name in everything:
                found.setdefault(_layer(name, index), []).append(name)
    return found


def _last(forward: Forward, everything: tuple[str, ...], trainable: str) -> tuple[str, ...]:
    """The parameters of the last N layers."""
    count, by_layer = trainable.removeprefix("last:"), layers(forward)
    if not count.isdigit() or not 1 <= int(count) <= len(by_layer):
        raise InputError(f"trainable {trainable!r}: give last:N with N from 1 to {len(by_layer)}, the layers")
    chosen = {name for names in list(by_layer.values())[-int(count) :] for name in names}
    return _some(forward, everything, chosen, trainable)


def _layer(name: str, index: int) -> str:
    """What is before a name's last dot or slash; without one, the node that reads it is the layer."""
    for separator in (".", "/"):
        if separator in name:
            return name.rpartition(separator)[0]
    return f"#{index}"


def _last_word(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[2]


def _some(forward: Forward, among: Iterable[str], chosen: set[str], trainable: str) -> tuple[str, ...]:
    names = tuple(name for name in among if name in chosen)
    if not names:
        raise InputError(f"trainable {trainable!r} matches no trainable array of the model")
    return names
