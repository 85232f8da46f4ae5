"""One direction of a GRU, LSTM or RNN layer, taken out of the arrays that ONNX packs them in.

T, B, I, H and G as in `recurrent`.
"""

from dataclasses import dataclass

from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.values import Node


@dataclass(frozen=True)
class Direction:
    """One direction of a layer, in the order in which it runs.

    Attributes:
        index: 0 or 1.
        backwards: whether it runs from the last step to the first.
        steps: T.
        units: H.
        x: inputs (T, B, I).
        h: states (T, B, H).
        before: the state before each step (T, B, H).
        w: input weights (G H, I).
        r: recurrent weights (G H, H).
        first_cell: the cell before the first step (B, H), LSTM only.
    """

    index: int
    backwards: bool
    steps: int
    units: int
    x: str
    h: str
    before: str
    w: str
    r: str
    first_cell: str


def direction(node: Node, index: int, g: Tape) -> Direction:
    """Direction `index` of a layer, its arrays in the order in which it runs."""
    count = direction_count(node)
    backwards = index == 1 or node.attributes.get("direction") in (b"reverse", "reverse")
    x, h = node.inputs[0], pick(node.saved["states"], index, 1, count, g)
    if backwards:
        x, h = (g.slice(name, 0, -1, -(1 << 62), -1) for name in (x, h))
    steps, units = g.values[node.inputs[0]].typical[0], int(node.attributes["hidden_size"])
    if node.input(5):
        first = g.op("Unsqueeze", pick(node.inputs[5], index, 0, count, g), g.ints(0))
    else:
        one = g.slice(h, 0, 0, 1)
        first = g.op("Sub", one, one)
    before = g.op("Concat", first, g.slice(h, 0, 0, steps - 1), axis=0) if steps > 1 else first
    w, r = (pick(name, index, 0, count, g) for name in node.inputs[1:3])
    cell = pick(node.inputs[6], index, 0, count, g) if node.input(6) else ""
    return Direction(index, backwards, steps, units, x, h, before, w, r, cell)


def direction_count(node: Node) -> int:
    """How many directions a layer has: 1 or 2."""
    return 2 if node.attributes.get("direction") in (b"bidirectional", "bidirectional") else 1


def pick(name: str, index: int, axis: int, count: int, g: Tape) -> str:
    """What belongs to one of `count` directions, which stand along `axis`."""
    if count == 1:
        return g.op("Squeeze", name, g.ints(axis))
    return g.op("Gather", name, g.constant(index, "int64"), axis=axis)


def stack(parts: list[str], g: Tape) -> str | None:
    """The directions' parts as ONNX packs them: along a new first axis."""
    return g.op("Concat", *(g.op("Unsqueeze", part, g.ints(0)) for part in parts), axis=0)
