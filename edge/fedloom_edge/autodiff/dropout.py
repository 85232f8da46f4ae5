"""Dropout as a graph part that draws from a seed: the same seed and step give the same mask anywhere.

ONNX's random operators take their seed at build time and count on from there, so neither a step can be
repeated nor two sessions agree. The mask here is a hash of the element's number and a key; multiplications
wrap around in 32 bits and shifts are divisions (those are the integer operators that runtimes have).
Srivastava et al., 2014, "Dropout".
"""

from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.values import Node

_MIX = (-1640531535, 739982445, -1474599835)  # odd, with bits spread evenly


def lower_dropout(node: Node, number: int, seed: str, step: str, g: Tape) -> Node:
    """Dropout with a mask of its own; a ratio of 0 writes Identity.

    Args:
        node: as exported; its `training_mode` is not looked at.
        number: which dropout of the graph it is.
        seed: name of an int64 scalar.
        step: name of an int64 scalar.
        g: where to write.
    """
    x = node.inputs[0]
    given = g.values[node.inputs[1]].constant if node.input(1) else None
    ratio = 0.5 if given is None else float(given.item())
    if ratio == 0:
        g.write("Identity", [x], node.outputs[:1], {})
        return node
    keep = _keep(x, ratio, _key(seed, step, number, g), g)
    mask = g.op("Where", keep, g.scalar(1 / (1 - ratio) if ratio < 1 else 0, x), g.scalar(0, x))
    g.write("Mul", [x, mask], node.outputs[:1], {})
    return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, {"mask": mask})


def _key(seed: str, step: str, number: int, g: Tape) -> str:
    """An int32 scalar that differs between seeds, steps and dropouts."""
    key = g.op("Mul", seed, g.constant(6364136223846793005, "int64"))
    key = g.op("Add", key, g.op("Mul", step, g.constant(1442695040888963407, "int64")))
    key = g.op("Add", key, g.constant(number * 7046029254386353131 % (1 << 63), "int64"))
    return g.op("Cast", key, to=6)


def _keep(x: str, ratio: float, key: str, g: Tape) -> str:
    """A boolean for each element of `x`, false with probability `ratio`."""
    first, second, third = (g.constant(odd, "int32") for odd in _MIX)
    count = g.op("Cast", g.op("Size", x), to=6)
    bits = g.op("Range", g.constant(0, "int32"), count, g.constant(1, "int32"))
    bits = g.op("BitwiseXor", g.op("Mul", bits, first), key)
    bits = g.op("BitwiseXor", bits, g.op("Div", bits, g.constant(1 << 16, "int32")))
    bits = g.op("Add", g.op("Mul", bits, second), key)
    bits = g.op("BitwiseXor", bits, g.op("Div", bits, g.constant(1 << 15, "int32")))
    bits = g.op("Mul", bits, third)
    threshold = g.constant(int(ratio * (1 << 32)) - (1 << 31), "int32")
    return g.op("Reshape", g.op("GreaterOrEqual", bits, threshold), g.shape_of(x))
