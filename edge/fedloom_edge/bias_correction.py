"""Takes off the biases of an int8 model what rounding adds to the mean of each channel. Needs onnx.

Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2:
b <- b - (E[y'] - E[y]), with y' the rounded and y the float output of a layer before its activation. The
expectations are means over samples, and layers are corrected in their order, because each correction
changes what later layers are given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fedloom_edge.sessions import open_session

_BATCH = 32
_LAYERS = ("Conv", "Gemm")


def correct_biases(plain: onnx.ModelProto, rounded: onnx.ModelProto, samples: NDArray[Any]) -> None:
    """Change the int32 biases of `rounded` in place.

    Args:
        plain: the float model, with one input; its layers have the same names.
        rounded: its int8 form in QDQ.
        samples: real inputs (N, ...).
    """
    outputs = {node.name: node.output[0] for node in plain.graph.node if node.op_type in _LAYERS}
    makers = {name: node for node in rounded.graph.node for name in node.output}
    stored = {i.name: i for i in rounded.graph.initializer}
    layers: list[tuple[onnx.NodeProto, str, str]] = []  # layer, its int32 bias, the bias's scale
    for node in rounded.graph.node:
        maker = makers.get(node.input[2]) if node.op_type in _LAYERS and len(node.input) > 2 else None
        if maker is not None and maker.op_type == "DequantizeLinear" and node.name in outputs:
            layers.append((node, maker.input[0], maker.input[1]))
    if not layers:  # a Transformer's MatMul has no bias
        return
    wanted = channel_means(plain, [outputs[node.name] for node, *_ in layers], samples)
    for (node, bias, scale), mean in zip(layers, wanted, strict=True):
        (found,) = channel_means(rounded, [node.output[0]], samples)
        shift = (mean - found) / numpy_helper.to_array(stored[scale])
        integers = np.rint(numpy_helper.to_array(stored[bias]) + shift).astype(np.int32)
        stored[bias].CopyFrom(numpy_helper.from_array(integers, bias))


def channel_means(
    model: onnx.ModelProto, names: Sequence[str], samples: NDArray[Any]
) -> list[NDArray[np.float64]]:
    """Mean of each channel (C,) of each of the values `names` (N, C, ...) of a model on inputs (N, ...)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(probe.SerializeToString())
    given = session.get_inputs()[0].name
    sums = [np.zeros(())] * len(names)
    for part in np.split(samples, range(_BATCH, len(samples), _BATCH)):
        for index, value in enumerate(session.run(names, {given: part})):
            over = tuple(axis for axis in range(value.ndim) if axis != 1)
            mean = value.mean(axis=over, dtype=np.float64)
            sums[index] = sums[index] + mean * (len(part) / len(samples))
    return sums
