"""Gradients of operators that move values without changing them. d is the gradient of the output."""

import numpy as np

from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """The same values in another shape: d in the input's shape."""
    return [g.reshape_like(only(gradients), node.inputs[0])]


@rule("Transpose")
def transpose(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Axes permuted: d, permuted back."""
    rank = g.values[node.inputs[0]].rank
    order = node.attributes.get("perm", range(rank)[::-1])
    return [g.transpose(only(gradients), *(int(i) for i in np.argsort(list(order))))]


@rule("Concat")
def concat(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Parts one after the other: each gets its part of d."""
    d = only(gradients)
    axis = _axis(node, g, node.outputs[0])
    sizes = [g.values[x].shape[axis] for x in node.inputs]
    if all(size is not None for size in sizes):
        parts = g.ops("Split", d, g.ints(*(size or 0 for size in sizes)), outputs=len(sizes), axis=axis)
    else:  # along the batch
        parts = g.ops("Split", d, _sizes_at_run_time(node, axis, g), outputs=len(sizes), axis=axis)
    return [part if g.wanted(x) else None for x, part in zip(node.inputs, parts, strict=True)]


@rule("Split")
def split(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Parts of one: their gradients one after the other, zeros for a part that nobody used."""
    axis = _axis(node, g, node.inputs[0])
    parts = [
        d if d is not None else g.op("Expand", g.scalar(0, y), g.shape_of(y))
        for y, d in zip(node.outputs, gradients, strict=True)
        if y
    ]
    return [g.op("Concat", *parts, axis=axis)]


@rule("Slice")
def slice_(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """A part of x: d in its place, zeros elsewhere. A strided slice is spread out first."""
    d, x = only(gradients), node.inputs[0]
    value = g.values[x]
    starts, ends = (_constant(node, index, g, "bounds") for index in (1, 2))
    axes = _constant(node, 3, g, "axes") if node.input(3) else list(range(len(starts)))
    steps = _constant(node, 4, g, "steps") if node.input(4) else [1] * len(starts)
    axes = [axis % value.rank for axis in axes]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = value.shape[axis]
        if size is None:
            if start == 0 and end >= value.typical[axis] and step == 1:
                continue
            raise InputError(f"{node} cuts along the batch; export the model without that")
        places = range(size)[slice(start, end, step)]
        d = _put(d, axis, value.rank, places, size, g)
    return [d]


@rule("Pad")
def pad(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Constant padding: d without its margins (a negative pad cut, so zeros come back)."""
    d, x = only(gradients), node.inputs[0]
    mode = node.attributes.get("mode", b"constant")
    pads = _constant(node, 1, g, "pads")
    rank = g.values[x].rank
    axes = [a % rank for a in _constant(node, 3, g, "axes")] if node.input(3) else list(range(rank))
    if mode in (b"constant", "constant"):
        margins = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
        return [g.pad(d, rank, {axis: (-before, -after) for axis, before, after in margins})]
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before or after:
            d = _fold_margins(node, d, axis, before, after, g)
    return [d]


@rule("Expand")
def expand(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Broadcast to a shape: d summed over the broadcast axes."""
    return [g.unbroadcast(only(gradients), node.inputs[0], node.outputs[0])]


@rule("Tile")
def tile(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Repeats: d summed over them, seen as (repeats, size) on every axis."""
    d, x = only(gradients), node.inputs[0]
    repeats = _constant(node, 1, g, "repeats")
    shape: list[int] = []
    axes = []
    for repeat, size in zip(repeats, g.values[x].shape, strict=True):
        if repeat != 1:
            axes.append(len(shape))
            shape.append(repeat)
        shape.append(-1 if size is None else size)
    if shape.count(-1) > 1:
        raise InputError(f"{node} has two axes that follow the batch; export the model without that")
    return [g.reduce(g.op("Reshape", d, g.ints(*shape)), axes, keep=False)]


@rule("DepthToSpace", "SpaceToDepth")
def depth_to_space(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """A permutation of values: d through the inverse one."""
    d, block = only(gradients), int(node.attributes["blocksize"])
    if node.op == "SpaceToDepth":
        return [g.op("DepthToSpace", d, blocksize=block, mode="DCR")]
    if node.attributes.get("mode", b"DCR") in (b"DCR", "DCR"):
        return [g.op("SpaceToDepth", d, blocksize=block)]
    _, channels, height, width = g.values[node.inputs[0]].typical
    parts = g.op("Reshape", d, g.ints(-1, channels // block**2, height, block, width, block))
    return [g.reshape_like(g.transpose(parts, 0, 1, 3, 5, 2, 4), node.inputs[0])]


@rule("Resize")
def resize(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """A linear map on each axis, y = Rx: Rᵀd. The matrices are measured at build time (`resize_matrix`)."""
    from fedloom_edge.autodiff.resize import resize_matrix

    d, x, y = only(gradients), node.inputs[0], node.outputs[0]
    source, result = g.values[x], g.values[y]
    axes = [axis for axis in range(source.rank) if source.typical[axis] != result.typical[axis]]
    for axis in axes:
        if source.shape[axis] is None:
            raise InputError(f"{node} resizes the batch; export the model without that")
        matrix = g.constant(resize_matrix(node, axis, g))  # (result size, source size)
        order = [i for i in range(source.rank) if i != axis] + [axis]
        back = [int(i) for i in np.argsort(order)]
        moved = d if order == back == list(range(source.rank)) else g.transpose(d, *order)
        moved = g.op("MatMul", moved, matrix)
        d = moved if order == list(range(source.rank)) else g.transpose(moved, *back)
    return [d]


def _put(d: str, axis: int, rank: int, places: range, size: int, g: Tape) -> str:
    """Values along `axis` at `places` among `size`, zeros elsewhere."""
    if places == range(size):
        return d
    if places.step == 1:
        return g.pad(d, rank, {axis: (places.start, size - places.stop)})
    # A gather from the slice with one zero row after it: each place's row, or that zero.
    rows = np.full(size, len(places), np.int64)
    rows[list(places)] = np.arange(len(places))
    padded = g.pad(d, rank, {axis: (0, 1)})
    return g.op("Gather", padded, g.constant(rows, np.int64), axis=axis)


def _fold_margins(node: Node, d: str, axis: int, before: int, after: int, g: Tape) -> str:
    """Reflected, repeated or wrapped margins: d of a margin is added where its values came from."""
    size = g.values[node.inputs[0]].shape[axis]
    if size is None or before < 0 or after < 0:
        raise InputError(f"{node} pads the batch or cuts; export the model without that")
    mode = node.attributes["mode"]
    name = mode.decode() if isinstance(mode, bytes) else mode
    kind = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[name]
    origin = np.pad(np.arange(size), (before, after), mode=kind)  # type: ignore[call-overload]
    matrix = np.zeros((len(origin), size), np.float32)
    matrix[np.arange(len(origin)), origin] = 1
    rank = g.values[node.inputs[0]].rank
    order = [i for i in range(rank) if i != axis] + [axis]
    product = g.op("MatMul", g.transpose(d, *order), g.constant(matrix))
    return g.transpose(product, *(int(i) for i in np.argsort(order)))


def _axis(node: Node, g: Tape, name: str) -> int:
    return int(node.attributes.get("axis", 0)) % g.values[name].rank


def _sizes_at_run_time(node: Node, axis: int, g: Tape) -> str:
    sizes = [g.op("Shape", x, start=axis, end=axis + 1) for x in node.inputs]
    return g.op("Concat", *sizes, axis=0)


def _constant(node: Node, index: int, g: Tape, what: str) -> list[int]:
    value = g.values[node.inputs[index]].constant
    if value is None:
        raise InputError(f"{node} takes its {what} from a computed value; export the model with fixed ones")
    return [int(i) for i in value.reshape(-1)]
