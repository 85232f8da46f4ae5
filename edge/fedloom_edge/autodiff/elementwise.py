"""Gradients of operators that work element by element, with ONNX's multidirectional broadcasting.

In the formulas x, y are an operator's input and output and d is the gradient of y. Where a gradient is
written as a function of y rather than x, x need not be kept.
"""

import math

from fedloom_edge.autodiff.rules import FLAT, Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node

FLAT |= {
    "Sign", "Floor", "Ceil", "Round", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not",
    "And", "Or", "Xor", "IsNaN", "IsInf", "ArgMax", "ArgMin", "Shape", "Size", "NonZero", "OneHot",
    "ConstantOfShape", "Range", "EyeLike",
}  # fmt: skip


@rule("Add", "Sum")
def add(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ xᵢ: d for each, summed over its broadcast axes."""
    d, y = only(gradients), node.outputs[0]
    return [g.unbroadcast(d, x, y) if g.wanted(x) else None for x in node.inputs]


@rule("Sub")
def subtract(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a - b: d and -d."""
    d, y, (a, b) = only(gradients), node.outputs[0], node.inputs
    return [
        g.unbroadcast(d, a, y) if g.wanted(a) else None,
        g.op("Neg", g.unbroadcast(d, b, y)) if g.wanted(b) else None,
    ]


@rule("Mul")
def multiply(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a b: d b and d a."""
    d, y, (a, b) = only(gradients), node.outputs[0], node.inputs
    return [
        g.unbroadcast(g.op("Mul", d, b), a, y) if g.wanted(a) else None,
        g.unbroadcast(g.op("Mul", d, a), b, y) if g.wanted(b) else None,
    ]


@rule("Div")
def divide(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a / b: d / b and -d y / b."""
    d, y, (a, b) = only(gradients), node.outputs[0], node.inputs
    quotient = g.op("Div", d, b)
    return [
        g.unbroadcast(quotient, a, y) if g.wanted(a) else None,
        g.op("Neg", g.unbroadcast(g.op("Mul", quotient, y), b, y)) if g.wanted(b) else None,
    ]


@rule("Pow")
def power(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a^b: d b a^(b-1) and d y ln a, the latter 0 where a is 0 (as PyTorch has it)."""
    d, y, (a, b) = only(gradients), node.outputs[0], node.inputs
    into_base = into_exponent = None
    exponent = g.values[b].constant
    if g.wanted(a):
        if exponent is not None and exponent.size == 1 and float(exponent.item()) == 2.0:
            slope = g.op("Mul", a, g.scalar(2, a))
        else:
            factor = b if g.values[b].is_float else g.op("Cast", b, to=1)
            slope = g.op("Mul", g.op("Pow", a, g.op("Sub", factor, g.scalar(1, a))), factor)
        into_base = g.unbroadcast(g.op("Mul", d, slope), a, y)
    if g.wanted(b):
        zero, one = g.scalar(0, a), g.scalar(1, a)
        logarithm = g.op("Log", g.op("Where", g.op("Equal", a, zero), one, a))
        into_exponent = g.unbroadcast(g.op("Mul", g.op("Mul", d, y), logarithm), b, y)
    return [into_base, into_exponent]


@rule("Min", "Max")
def extremum(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = max(xᵢ) or min: d where xᵢ is y, shared evenly between equals (as PyTorch has it)."""
    d, y = only(gradients), node.outputs[0]
    if len(node.inputs) == 1:
        return [d]
    hits = [g.op("Cast", g.op("Equal", x, y), to=g.onnx_type(y)) for x in node.inputs]
    share = g.op("Div", d, g.sum(hits))
    return [
        g.unbroadcast(g.op("Mul", share, hit), x, y) if g.wanted(x) else None
        for x, hit in zip(node.inputs, hits, strict=True)
    ]


@rule("Mean")
def mean(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ xᵢ / n: d / n for each."""
    share = g.op("Div", only(gradients), g.scalar(len(node.inputs), node.outputs[0]))
    return add(node, [share], g)


@rule("Where")
def where(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a where c, else b: d where c, and d where not c."""
    d, y, (c, a, b) = only(gradients), node.outputs[0], node.inputs
    return [
        None,
        g.unbroadcast(g.masked(d, c, y), a, y) if g.wanted(a) else None,
        g.unbroadcast(g.masked(d, g.op("Not", c), y), b, y) if g.wanted(b) else None,
    ]


@rule("Clip")
def clip(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = min(max(x, low), high): d where y is x, which holds at the ends too (as PyTorch's clamp has it).

    From 0 to 6 it is ReLU6: d where 0 < y < 6 (as PyTorch has that), for which x need not be kept.
    """
    d, x, y = only(gradients), node.inputs[0], node.outputs[0]
    ends = [g.values[name].constant if name else None for name in (node.input(1), node.input(2))]
    if [end if end is None else float(end) for end in ends] != [0, 6]:
        return [g.masked(d, g.op("Equal", x, y), x)]
    inside = g.op("And", g.op("Greater", y, g.scalar(0, y)), g.op("Less", y, g.scalar(6, y)))
    return [g.masked(d, inside, y)]


@rule("Neg")
def negate(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = -x: -d."""
    return [g.op("Neg", only(gradients))]


@rule("Abs")
def absolute(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = |x|: d sign(x)."""
    return [g.op("Mul", only(gradients), g.op("Sign", node.inputs[0]))]


@rule("Identity")
def identity(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x: d."""
    return [only(gradients)]


@rule("Cast")
def cast(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Between float types: d, cast back."""
    return [g.op("Cast", only(gradients), to=g.onnx_type(node.inputs[0]))]


@rule("Exp")
def exponential(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = eˣ: d y."""
    return [g.op("Mul", only(gradients), node.outputs[0])]


@rule("Log")
def logarithm(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = ln x: d / x."""
    return [g.op("Div", only(gradients), node.inputs[0])]


@rule("Sqrt")
def square_root(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = √x: d / 2y."""
    y = node.outputs[0]
    return [g.op("Div", only(gradients), g.op("Mul", y, g.scalar(2, y)))]


@rule("Reciprocal")
def reciprocal(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = 1/x: -d y²."""
    y = node.outputs[0]
    return [g.op("Neg", g.op("Mul", only(gradients), g.op("Mul", y, y)))]


@rule("Sin")
def sine(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = sin x: d cos x."""
    return [g.op("Mul", only(gradients), g.op("Cos", node.inputs[0]))]


@rule("Cos")
def cosine(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = cos x: -d sin x."""
    return [g.op("Neg", g.op("Mul", only(gradients), g.op("Sin", node.inputs[0])))]


@rule("Erf")
def error_function(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = erf x: d 2/√π exp(-x²)."""
    x = node.inputs[0]
    bell = g.op("Exp", g.op("Neg", g.op("Mul", x, x)))
    return [g.op("Mul", only(gradients), g.op("Mul", bell, g.scalar(2 / math.sqrt(math.pi), x)))]
