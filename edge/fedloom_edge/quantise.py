"""Static int8 quantisation of an inference graph: QDQ form, weights per channel. Needs onnx.

Weights are signed and symmetric, activations unsigned (U8S8): on x86 with VNNI and on ARM with dot
products that is the fast combination, and S8S8 was slower than float. Ranges come from real samples.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from fedloom_edge.bias_correction import correct_biases
from fedloom_edge.errors import InputError

_BATCH = 32
_PRODUCTS = ["Conv", "Gather", "Gemm", "MatMul"]
"""What is rounded in a Transformer: layer norm, softmax and GELU between the products lose too much (MiniLM:
sentence vectors keep a cosine of 0.92 with float ones, and 0.31 with everything rounded) and win no time."""


def quantise(model: bytes, samples: NDArray[Any], keep: tuple[str, ...] = ()) -> bytes:
    """An int8 model of a float one, with corrected biases (see `bias_correction`).

    Args:
        model: inference graph with one input.
        samples: real inputs (N, ...) that activations' ranges are taken from; some hundreds are enough.
        keep: arrays that stay float, and with them every node after them: a head that is trained further.

    Raises:
        InputError: nothing in the model can be quantised.
    """
    folded, small = fold_and_quantise(model, samples, keep)
    correct_biases(folded, small, samples)
    return bytes(small.SerializeToString())


def fold_and_quantise(
    model: bytes, samples: NDArray[Any], keep: tuple[str, ...] = ()
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float model with batch norm folded into convolutions, and its int8 form; see `quantise`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, plain, result = (Path(folder, name) for name in ("given.onnx", "plain.onnx", "int8.onnx"))
        given.write_bytes(model)
        # onnxruntime's own passes fold batch norm into convolutions, which rounding needs.
        quant_pre_process(given, plain, skip_symbolic_shape=True)
        folded = onnx.load(plain)
        try:
            quantize_static(
                plain,
                result,
                _Reader(folded.graph.input[0].name, samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_floating(folded.graph, keep),
                op_types_to_quantize=_PRODUCTS if _is_transformer(folded.graph) else None,
            )
        except Exception as error:  # the library raises each of its own
            raise InputError(
                f"the model cannot be quantised: {str(error).strip().splitlines()[0]}"
            ) from error
        made = onnx.load(result)
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise InputError("nothing in the model before its trained arrays can be quantised; serve it in float")
    _answer_in_float(made.graph)
    for initialiser in made.graph.initializer:  # as raw bytes, which a device can replace
        initialiser.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(initialiser), initialiser.name))
    return folded, made


def _answer_in_float(graph: onnx.GraphProto) -> None:
    """Take the rounding off the model's output: it saves nothing, and training may outgrow its range."""
    makers = {node.output[0]: node for node in graph.node}
    last = makers[graph.output[0].name]
    rounding = makers.get(last.input[0]) if last.op_type == "DequantizeLinear" else None
    if rounding is None or rounding.op_type != "QuantizeLinear":
        return
    makers[rounding.input[0]].output[0] = last.output[0]
    graph.node.remove(last)
    graph.node.remove(rounding)


def _is_transformer(graph: onnx.GraphProto) -> bool:
    return any(node.op_type == "LayerNormalization" for node in graph.node)


def _floating(graph: onnx.GraphProto, keep: tuple[str, ...]) -> list[str]:
    """Names of the nodes that read `keep` or anything that comes of it."""
    touched, names = set(keep), []
    for node in graph.node:
        if touched & set(node.input):
            touched |= set(node.output)
            names.append(node.name)
    return names


class _Reader:
    """The samples in batches, as onnxruntime's calibration asks for them."""

    def __init__(self, name: str, samples: NDArray[Any]) -> None:
        self._batches: Iterator[dict[str, NDArray[Any]]] = (
            {name: part} for part in np.split(samples, range(_BATCH, len(samples), _BATCH))
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


class _quiet:  # noqa: N801  (a context manager, named as one)
    """The library advises on the root logger what has been done already."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self._level)
