"""Gradients through rounding to 8 bits: the straight-through estimator (Bengio et al., 2013).

y = s (clip(round(x / s) + z) - z), and dx = dy where x is within the range that 8 bits hold, else 0: what
is clipped gets no gradient (Jacob et al., 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference"). The scale gets none: ranges are observed, not learned.
"""

import numpy as np

from fedloom_edge.autodiff.rules import Gradients, Tape, rule
from fedloom_edge.autodiff.values import Node


@rule("DequantizeLinear")
def dequantize_linear(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """dq = dy, in units of y: the quantised value stands for the float one that it was."""
    return [gradients[0]]


@rule("QuantizeLinear")
def quantize_linear(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """dx = dq [low <= x <= high]; a scale that is computed of x holds all of x, so nothing is clipped."""
    (dq,) = gradients
    assert dq is not None
    x = node.input(0)
    scale, zero = (g.values[name].constant if name else None for name in (node.input(1), node.input(2)))
    if scale is None or scale.size != 1:
        return [dq]
    kind = np.iinfo(g.values[node.outputs[0]].dtype)
    shift = 0 if zero is None else int(zero.item())
    low, high = ((end - shift) * float(scale.item()) for end in (kind.min, kind.max))
    inside = g.op("Equal", g.op("Clip", x, g.scalar(low, x), g.scalar(high, x), like=x), x)
    return [g.masked(dq, inside, like=x)]
