"""Gradients of pooling over 1, 2 or 3 spatial axes. d is the gradient of the output."""

import math

import numpy as np

from fedloom_edge.autodiff.convolution import Window, window
from fedloom_edge.autodiff.elementwise import _only
from fedloom_edge.autodiff.rules import Gradients, Tape, rule
from fedloom_edge.autodiff.values import Node


@rule("MaxPool")
def max_pool(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = max over a window, the first of equals: d added up at the places of the maxima."""
    d, x, y = _only(gradients), node.inputs[0], node.outputs[0]
    kernel = tuple(int(k) for k in node.attributes["kernel_shape"])
    move = window(node, g.values[x], g.values[y], kernel)
    apart = all(s >= (k - 1) * e + 1 for s, k, e in zip(move.strides, kernel, move.dilations, strict=True))
    flat = g.ints(-1)
    size = g.op("ReduceProd", g.op("Shape", x), keepdims=1)
    zeros = g.op("Expand", g.scalar(0, x), size)
    # Windows that do not overlap write each place once at most, which needs no addition.
    adding = {} if apart else {"reduction": "add"}
    total = g.op(
        "ScatterElements",
        zeros,
        g.op("Reshape", node.saved["places"], flat),
        g.op("Reshape", d, flat),
        **adding,
    )
    return [g.reshape_like(total, x)]


@rule("AveragePool")
def average_pool(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ x / n over a window: d / n spread over it, a transposed convolution with ones."""
    d, x, y = _only(gradients), node.inputs[0], node.outputs[0]
    source, result = g.values[x], g.values[y]
    kernel = tuple(int(k) for k in node.attributes["kernel_shape"])
    move = window(node, source, result, kernel)
    counts = _counts(node, move, source.typical[2:], result.typical[2:])
    d = g.op("Div", d, g.constant(counts.astype(source.dtype)))
    alone = g.op("Reshape", d, g.ints(-1, 1, *result.typical[2:]))  # each channel an image of its own
    spread = g.op(
        "ConvTranspose",
        alone,
        g.constant(np.ones((1, 1, *kernel), source.dtype)),
        strides=list(move.strides),
        dilations=list(move.dilations),
        pads=move.pads,
        output_padding=move.unreached,
    )
    return [g.reshape_like(spread, x)]


def _counts(
    node: Node, move: Window, source: tuple[int, ...], result: tuple[int, ...]
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """How many elements each window's mean is over: all that the padding allows, or the real ones."""
    rank = len(source)
    padded = bool(node.attributes.get("count_include_pad", 0))
    pads = [int(p) for p in node.attributes.get("pads", [0] * 2 * rank)]
    counts = np.ones((), np.float64)
    for axis in range(rank):
        before, after = (pads[axis], pads[axis + rank]) if padded else (0, 0)
        starts = move.strides[axis] * np.arange(result[axis]) - move.begin[axis]
        places = starts[:, np.newaxis] + move.dilations[axis] * np.arange(move.kernel[axis])
        inside = (places >= -before) & (places < source[axis] + after)
        counts = np.multiply.outer(counts, inside.sum(1))
    assert counts.size == math.prod(result)
    return counts
