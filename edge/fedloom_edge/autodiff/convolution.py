"""Gradients of convolutions over 1, 2 or 3 spatial axes.

X (N, C, ...) and W (M, C/G, ...) give Y (N, M, ...); D is the gradient of Y. G groups, kernel k, stride s,
dilation d, pads p.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fedloom_edge.autodiff.depthwise import small_depthwise
from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.autodiff.window import Window, window
from fedloom_edge.errors import InputError

_MOST_SHIFTS = 49  # elements of a kernel up to which its gradient is formed shift by shift


@rule("Conv")
def conv(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """X gets the transposed convolution of D with W; W the correlation of X with D; the bias Σ D."""
    d, (x, w) = only(gradients), node.inputs[:2]
    kernel = g.values[w].typical[2:]
    if node.saved:
        return [*small_depthwise(node, d, g), _bias(node, d, g)]
    move = window(node, g.values[x], g.values[node.outputs[0]], kernel)
    group = int(node.attributes.get("group", 1))
    into: list[str | None] = [None, None, _bias(node, d, g)]
    if g.wanted(x):
        into[0] = into_input(d, w, x, move, group, g)
    if g.wanted(w):
        into[1] = into_kernel(
            x, d, move, group, g.values[x].typical[1:], g.values[node.outputs[0]].typical[1:], g
        )
    return into


@rule("ConvTranspose")
def conv_transpose(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """The adjoint of Conv: X gets the convolution of D with W; W the correlation of D with X."""
    d, (x, w), y = only(gradients), node.inputs[:2], node.outputs[0]
    kernel = g.values[w].typical[2:]
    move = _transposed_window(node, g, kernel)
    group = int(node.attributes.get("group", 1))
    moves = {"strides": list(move.strides), "dilations": list(move.dilations)}
    shared: dict[str, Any] = moves | {"group": group}
    into: list[str | None] = [None, None, _bias(node, d, g)]
    if g.wanted(x):
        padded = _padded(d, move, g)
        into[0] = g.op("Conv", padded, w, pads=[0] * 2 * len(kernel), **shared)
    if g.wanted(w):
        channels, *plain = g.values[y].typical[1:]
        sizes = [s + b + e for s, b, e in zip(plain, move.begin, move.end, strict=True)]
        into[1] = into_kernel(
            _padded(d, move, g), x, _unpadded(move), group, (channels, *sizes), g.values[x].typical[1:], g
        )
    return into


def _bias(node: Node, d: str, g: Tape) -> str | None:
    """Σ D over examples and places."""
    if not (bias := node.input(2)) or not g.wanted(bias):
        return None
    return g.reduce(d, [0, *range(2, g.values[node.inputs[0]].rank)], keep=False)


def into_input(d: str, w: str, x: str, move: Window, group: int, g: Tape) -> str:
    """Gradient of a convolution's input: its adjoint.

    At stride 1 and without groups that is a convolution with the kernel turned round, which runtimes do
    faster (1x1: in a quarter of the time); else ConvTranspose.
    """
    pads = [(k - 1) * e - p for k, e, p in zip(move.kernel, move.dilations, move.begin, strict=True)]
    ends = [(k - 1) * e - p for k, e, p in zip(move.kernel, move.dilations, move.end, strict=True)]
    if group == 1 and set(move.strides) == {1} and min(*pads, *ends) >= 0:
        kernel = _turned(w, move, g)
        return g.op("Conv", d, kernel, dilations=list(move.dilations), pads=[*pads, *ends])
    return g.op(
        "ConvTranspose",
        d,
        w,
        group=group,
        strides=list(move.strides),
        dilations=list(move.dilations),
        pads=move.pads,
        output_padding=move.unreached,
    )


def _turned(w: str, move: Window, g: Tape) -> str:
    """W (M, C, ...) as (C, M, ...), each kernel from its end to its beginning."""
    spatial = range(2, 2 + len(move.kernel))
    size = math.prod(move.kernel)
    if size > 1:
        outer = g.values[w].typical[:2]
        flat = g.op("Reshape", w, g.ints(*outer, size))
        w = g.op("Reshape", g.slice(flat, 2, -1, -(1 << 62), -1), g.ints(*outer, *move.kernel))
    return g.transpose(w, 1, 0, *spatial)


def into_kernel(
    x: str, d: str, move: Window, group: int, sizes: tuple[int, ...], result: tuple[int, ...], g: Tape
) -> str:
    """Gradient of a kernel, Σ x[places under its element] d; `sizes` and `result`: X and D without batch.

    The form is chosen by shape, from measured times (one thread; n per cent of the last form's time):
    1x1: a product by example (15 %). Depthwise: a product and a sum an element of the kernel (30 %).
    Without groups: all shifted X in rows, one product with D (60 %). Else, or for large kernels, a
    convolution of X with D.
    """
    channels, outputs, places = sizes[0], result[0], math.prod(result[1:])
    size = math.prod(move.kernel)
    plain = set(move.strides) == {1} and not any((*move.begin, *move.end))
    # By example there is a result an example to add up; all at once X and D are transposed first.
    if group == 1 and size == 1 and plain and channels * outputs < places * (channels + outputs):
        return _pointwise_kernel(x, d, move, channels, outputs, g)
    if size <= _MOST_SHIFTS and group == channels == outputs:
        return _depthwise_kernel(x, d, move, result, g)
    if size <= _MOST_SHIFTS and group == 1:
        return _shifted_kernel(x, d, move, channels, result, g)
    return _correlated_kernel(x, d, move, group, sizes, g)


def _pointwise_kernel(x: str, d: str, move: Window, channels: int, outputs: int, g: Tape) -> str:
    """Σ over examples of D Xᵀ."""
    left = g.op("Reshape", d, g.ints(0, outputs, -1))
    right = g.transpose(g.op("Reshape", x, g.ints(0, channels, -1)), 0, 2, 1)
    total = g.reduce(g.op("MatMul", left, right), [0], keep=False)
    return g.op("Reshape", total, g.ints(outputs, channels, *move.kernel))


def _depthwise_kernel(x: str, d: str, move: Window, result: tuple[int, ...], g: Tape) -> str:
    """For each element of the kernel Σ x d over what lies under it."""
    axes = [0, *range(2, 2 + len(move.kernel))]
    sums = [
        g.reduce(g.op("Mul", part, d), axes, keep=False) for part in _shifts(x, move, result[1:], g)
    ]  # each (C)
    stacked = g.op("Concat", *(g.op("Unsqueeze", s, g.ints(1)) for s in sums), axis=1)
    return g.op("Reshape", stacked, g.ints(result[0], 1, *move.kernel))


def _shifted_kernel(x: str, d: str, move: Window, channels: int, result: tuple[int, ...], g: Tape) -> str:
    """D (M, N ...) times the shifted X (k C, N ...), transposed: (M, k C)."""
    spatial = range(2, 2 + len(move.kernel))
    parts = list(_shifts(g.transpose(x, 1, 0, *spatial), move, result[1:], g))
    rows = g.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    rows = g.op("Flatten", rows, axis=1)
    left = g.op("Flatten", g.transpose(d, 1, 0, *spatial), axis=1)
    product = g.op("Gemm", left, rows, transB=1)
    split = g.transpose(g.op("Reshape", product, g.ints(result[0], len(parts), channels)), 0, 2, 1)
    return g.op("Reshape", split, g.ints(result[0], channels, *move.kernel))


def _shifts(x: str, move: Window, results: tuple[int, ...], g: Tape) -> Iterator[str]:
    """For each element of the kernel the part of X that lies under it; `results` is D's spatial shape."""
    rank = len(move.kernel)
    axes = list(range(2, 2 + rank))
    if rank == 2 and move.strides[0] == move.strides[1] > 1:
        yield from _shifts_of_phases(x, move, results, g)
        return
    x = _padded(x, move, g)
    if math.prod(move.kernel) == 1 and set(move.strides) == {1}:
        yield x
        return
    for offset in itertools.product(*map(range, move.kernel)):
        starts = [o * e for o, e in zip(offset, move.dilations, strict=True)]
        # An end counted from the end: all of it lies inside after padding.
        beyond = [(k - 1) * e - s for k, e, s in zip(move.kernel, move.dilations, starts, strict=True)]
        ends = [-b if b else 1 << 62 for b in beyond]
        bounds = (g.ints(*values) for values in (starts, ends, axes, move.strides))
        yield g.op("Slice", x, *bounds)


def _shifts_of_phases(x: str, move: Window, results: tuple[int, ...], g: Tape) -> Iterator[str]:
    """The same with equal strides: padded X is cut into its phases once, and parts of these are dense.

    A dense slice takes a fifth of the time of a strided one.
    """
    stride = move.strides[0]
    reach = [
        stride * (o - 1) + (k - 1) * e + 1
        for o, k, e in zip(results, move.kernel, move.dilations, strict=True)
    ]
    end = tuple(e + (-r) % stride for e, r in zip(move.end, reach, strict=True))  # to whole phases
    x = _padded(x, replace(move, end=end), g)
    phases = g.ops(
        "Split", g.op("SpaceToDepth", x, blocksize=stride), outputs=stride**2, axis=1, num_outputs=stride**2
    )
    for offset in itertools.product(*map(range, move.kernel)):
        starts = [o * e for o, e in zip(offset, move.dilations, strict=True)]
        phase = phases[starts[0] % stride * stride + starts[1] % stride]
        first = [s // stride for s in starts]
        last = [f + o for f, o in zip(first, results, strict=True)]
        yield g.op("Slice", phase, g.ints(*first), g.ints(*last), g.ints(2, 3))


def _correlated_kernel(x: str, d: str, move: Window, group: int, sizes: tuple[int, ...], g: Tape) -> str:
    """X convolved with D, the batch in the place of the channels.

    The kernel's stride is then D's dilation and its dilation D's stride. With groups, the groups' batches
    stand side by side as channels: (C/G, G N, ...) with (M, N, ...) gives (C/G, M, ...).
    """
    rank = len(move.kernel)
    spatial = range(2, 2 + rank)
    channels, *places = sizes
    if group == 1:
        left = g.transpose(x, 1, 0, *spatial)
    else:
        split = g.op("Reshape", x, g.ints(-1, group, channels // group, *places))
        order = g.transpose(split, 2, 1, 0, *(axis + 1 for axis in spatial))
        left = g.op("Reshape", order, g.ints(channels // group, -1, *places))
    right = g.transpose(d, 1, 0, *spatial)
    product = g.op(
        "Conv",
        left,
        right,
        strides=list(move.dilations),
        dilations=list(move.strides),
        pads=move.pads,
        group=group,
    )
    for axis, size, unreached, stride in zip(
        spatial, move.kernel, move.unreached, move.dilations, strict=True
    ):
        if unreached // stride:
            product = g.slice(product, axis, 0, size)
    return g.transpose(product, 1, 0, *spatial)


def _transposed_window(node: Node, g: Tape, kernel: tuple[int, ...]) -> Window:
    """The window of the convolution whose adjoint a ConvTranspose is."""
    x, y = g.values[node.inputs[0]], g.values[node.outputs[0]]
    if None in x.shape[2:] or None in y.shape[2:]:
        raise InputError(f"{node} has a spatial axis of variable size; export the model with fixed ones")
    rank = len(kernel)
    strides = tuple(int(s) for s in node.attributes.get("strides", [1] * rank))
    dilations = tuple(int(d) for d in node.attributes.get("dilations", [1] * rank))
    extra = [int(p) for p in node.attributes.get("output_padding", [0] * rank)]
    full = [
        s * (i - 1) + e + (k - 1) * d + 1
        for i, k, s, d, e in zip(x.typical[2:], kernel, strides, dilations, extra, strict=True)
    ]
    total = [f - o for f, o in zip(full, y.typical[2:], strict=True)]  # cut off, both sides
    auto = node.attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if "output_shape" in node.attributes or auto in ("SAME_UPPER", "SAME_LOWER"):
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    else:
        begin = [int(p) for p in node.attributes.get("pads", [0] * 2 * rank)][:rank]
    end = tuple(t - b - e for t, b, e in zip(total, begin, extra, strict=True))
    return Window(kernel, strides, dilations, tuple(begin), end)


def _padded(d: str, move: Window, g: Tape) -> str:
    """A window's larger side with its margins, and without what no window reaches."""
    margins = zip(move.begin, move.end, strict=True)
    return g.pad(d, 2 + len(move.kernel), dict(enumerate(margins, start=2)))


def _unpadded(move: Window) -> Window:
    zeros = (0,) * len(move.kernel)
    return Window(move.kernel, move.strides, move.dilations, zeros, zeros)
