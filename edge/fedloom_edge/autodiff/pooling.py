"""Gradients of pooling over 1, 2 or 3 spatial axes. d is the gradient of the output."""

import math

import numpy as np

from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.autodiff.window import Window, window


@rule("MaxPool")
def max_pool(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = max over a window, the first of equals: d added up at the places of the maxima."""
    d, x = only(gradients), node.inputs[0]
    if "places" not in node.saved:
        return [_from_tiles(node, d, g)]
    flat = g.ints(-1)
    size = g.op("ReduceProd", g.op("Shape", x), keepdims=1)
    zeros = g.op("Expand", g.scalar(0, x), size)
    places, values = (g.op("Reshape", name, flat) for name in (node.saved["places"], d))
    return [g.reshape_like(g.op("ScatterElements", zeros, places, values, reduction="add"), x)]


def lower_max_pool(node: Node, g: Tape) -> Node:
    """MaxPool that leaves the places of its maxima; for tiles as it is.

    Places cost: a runtime's pooling with them takes 25 times as long as without.
    """
    if _tile(node, g):
        g.write("MaxPool", node.inputs, node.outputs[:1], dict(node.attributes))
        return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, {})
    places = g.fresh("places")
    attributes = dict(node.attributes) | {"storage_order": 0}
    g.write("MaxPool", node.inputs, [node.outputs[0], places], attributes)
    return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, {"places": places})


def _tile(node: Node, g: Tape) -> int:
    """Side of the square tiles that a pooling in two axes cuts its input into; 0 if it does not."""
    x = g.values[node.inputs[0]]
    kernel = [int(k) for k in node.attributes["kernel_shape"]]
    square = len(kernel) == 2 and kernel[0] == kernel[1] > 1 and None not in x.shape[2:]
    apart = list(node.attributes.get("strides", [1, 1])) == kernel
    plain = not any(node.attributes.get("pads", [])) and not node.attributes.get("ceil_mode", 0)
    dense = set(node.attributes.get("dilations", [1])) == {1}
    auto = node.attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID", "NOTSET", "VALID")
    return kernel[0] if square and apart and plain and dense and auto else 0


def _from_tiles(node: Node, d: str, g: Tape) -> str:
    """Element by element of the tiles, in order: where it is the maximum it takes what is left of d."""
    x, y, side = node.inputs[0], node.outputs[0], _tile(node, g)
    sizes, tiles = g.values[x].typical[2:], g.values[y].typical[2:]
    rest = [size - side * count for size, count in zip(sizes, tiles, strict=True)]
    source = g.pad(x, 4, {axis: (0, -r) for axis, r in enumerate(rest, start=2)})  # what no tile reaches
    count, channels = side * side, g.values[x].typical[1]
    parts = g.ops(
        "Split",
        g.op("SpaceToDepth", source, blocksize=side),
        g.ints(*[channels] * count),
        outputs=count,
        axis=1,
    )
    into, left = [], d
    for index, part in enumerate(parts):
        into.append(g.masked(left, g.op("Equal", part, y), x))
        if index < count - 1:
            left = g.op("Sub", left, into[-1])
    total = _interleaved(into, side, tiles, g)
    return g.pad(total, 4, {axis: (0, r) for axis, r in enumerate(rest, start=2)})


def _interleaved(parts: list[str], side: int, tiles: tuple[int, ...], g: Tape) -> str:
    """Tiles (N, C, side H, side W) of their elements (N, C, H, W): a third of DepthToSpace's time."""
    height, width = tiles
    last, row = g.ints(-1), g.ints(0, 0, height, 1, width * side)
    rows = []
    for start in range(0, len(parts), side):
        columns = [g.op("Unsqueeze", part, last) for part in parts[start : start + side]]
        rows.append(g.op("Reshape", g.op("Concat", *columns, axis=4), row))
    return g.op("Reshape", g.op("Concat", *rows, axis=3), g.ints(0, 0, height * side, width * side))


@rule("AveragePool")
def average_pool(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ x / n over a window: d / n spread over it, a transposed convolution with ones."""
    d, x, y = only(gradients), node.inputs[0], node.outputs[0]
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
