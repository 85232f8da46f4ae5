"""Depthwise convolutions of small maps as one matrix a channel, and the gradients of that.

Channel c of Y is T_c times channel c of X, where T_c (P, Q) has at (p, q) the kernel's element under which
place p of X lies when the window stands at place q of Y, else 0 (a Toeplitz matrix where X is a line). T is
the kernels (C, k) times a constant (k, P, Q) of zeros and ones. A runtime's depthwise convolution calls its
kernel once an example and channel, which on a map of 6x6 takes 3 times as long, and its gradients 4 times.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.values import Node
from fedloom_edge.autodiff.window import Window, window

_MOST_PAIRS = 36 * 36
"""Largest P Q: at 12x12 the matrices are slower than the convolution."""
_MOST_SHIFTS = 49


def is_small_depthwise(node: Node, g: Tape) -> bool:
    """Whether a Conv has a kernel a channel, and maps so small that matrices are faster."""
    x, w, y = (g.values[name] for name in (*node.inputs[:2], node.outputs[0]))
    group = int(node.attributes.get("group", 1))
    if not 1 < group == x.typical[1] == y.typical[1] or None in x.shape[1:] or None in w.shape:
        return False
    pairs = math.prod(x.typical[2:]) * math.prod(y.typical[2:])
    return pairs <= _MOST_PAIRS and 1 < math.prod(w.typical[2:]) <= _MOST_SHIFTS


def lower_small_depthwise(node: Node, g: Tape) -> Node:
    """Write Y = X T in channels (C, N, P) (C, P, Q), and keep T and X so turned."""
    (x, w), y = node.inputs[:2], node.outputs[0]
    kernel = g.values[w].typical[2:]
    channels, *places = g.values[x].typical[1:]
    results = g.values[y].typical[2:]
    under = _under(window(node, g.values[x], g.values[y], kernel), places, results)
    rows = g.op("Reshape", w, g.ints(channels, math.prod(kernel)))
    turned = _turned(x, channels, math.prod(places), g)
    back = g.transpose(g.op("MatMul", turned, _matrices(rows, under, channels, g)), 1, 0, 2)
    shape = g.ints(-1, channels, *results)
    if bias := node.input(2):
        plain = g.op("Reshape", back, shape)
        g.write("Add", (plain, g.op("Reshape", bias, g.ints(channels, *[1] * len(results)))), (y,), {})
    else:
        g.write("Reshape", (back, shape), (y,), {})
    flat = g.constant(under.reshape(len(under), -1))
    over = g.constant(under.transpose(0, 2, 1))
    saved = {"rows": rows, "turned": turned, "under": flat, "over": over}
    return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, saved)


def small_depthwise(node: Node, d: str, g: Tape) -> tuple[str | None, str | None]:
    """X gets D Tᵀ; T gets Xᵀ D, and each element of the kernel the sum over its places in T."""
    x, w = node.inputs[:2]
    channels, *places = g.values[x].typical[1:]
    results = math.prod(g.values[node.outputs[0]].typical[2:])
    turned = _turned(d, channels, results, g)
    into_x = into_w = None
    if g.wanted(x):
        # Made anew and not T turned: that takes longer, and T would be held until here.
        across = _matrices(node.saved["rows"], g.constants[node.saved["over"]], channels, g)
        into_x = g.reshape_like(g.transpose(g.op("MatMul", turned, across), 1, 0, 2), x)
    if g.wanted(w):
        product = g.op("MatMul", g.transpose(node.saved["turned"], 0, 2, 1), turned)
        rows = g.op("Reshape", product, g.ints(channels, math.prod(places) * results))
        into_w = g.reshape_like(g.op("Gemm", rows, node.saved["under"], transB=1), w)
    return into_x, into_w


def _turned(x: str, channels: int, places: int, g: Tape) -> str:
    """X (N, C, ...) as (C, N, P)."""
    return g.transpose(g.op("Reshape", x, g.ints(-1, channels, places)), 1, 0, 2)


def _matrices(rows: str, places: NDArray[np.float32], channels: int, g: Tape) -> str:
    """Kernels (C, k) as matrices (C, ...), by constants (k, ...)."""
    flat = g.op("MatMul", rows, g.constant(places.reshape(len(places), -1)))
    return g.op("Reshape", flat, g.ints(channels, *places.shape[1:]))


def _under(move: Window, places: Sequence[int], results: Sequence[int]) -> NDArray[np.float32]:
    """(k, P, Q): 1 where an element of the kernel lies on place p as the window stands at q."""
    under = np.zeros((*move.kernel, *places, *results), np.float32)
    for element in np.ndindex(*move.kernel):
        for result in np.ndindex(*results):
            steps = zip(result, move.strides, element, move.dilations, move.begin, strict=True)
            place = tuple(r * s + e * d - b for r, s, e, d, b in steps)
            if all(0 <= p < size for p, size in zip(place, places, strict=True)):
                under[(*element, *place, *result)] = 1
    return under.reshape(math.prod(move.kernel), math.prod(places), math.prod(results))
