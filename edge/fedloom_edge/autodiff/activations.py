"""Gradients of activation functions; x, y and d as in `elementwise`."""

import math

from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node


@rule("Tanh")
def hyperbolic_tangent(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = tanh x: d (1 - y²)."""
    d, y = only(gradients), node.outputs[0]
    return [g.op("Mul", d, g.op("Sub", g.scalar(1, y), g.op("Mul", y, y)))]


@rule("Sigmoid")
def sigmoid(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = 1/(1 + e⁻ˣ): d y (1 - y)."""
    d, y = only(gradients), node.outputs[0]
    return [g.op("Mul", d, g.op("Mul", y, g.op("Sub", g.scalar(1, y), y)))]


@rule("Relu")
def relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = max(x, 0): d where y > 0."""
    d, y = only(gradients), node.outputs[0]
    return [g.masked(d, g.op("Greater", y, g.scalar(0, y)), y)]


@rule("LeakyRelu")
def leaky_relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or αx below 0: d, or αd below 0."""
    slope = float(node.attributes.get("alpha", 0.01))
    return [_split_at_zero(node, only(gradients), slope, g)]


@rule("ThresholdedRelu")
def thresholded_relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x above α, else 0: d where x > α."""
    d, x = only(gradients), node.inputs[0]
    above = g.op("Greater", x, g.scalar(float(node.attributes.get("alpha", 1.0)), x))
    return [g.masked(d, above, x)]


@rule("PRelu")
def parametric_relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or s x below 0: (d, or s d) and (0, or x d)."""
    d, (x, s), y = only(gradients), node.inputs, node.outputs[0]
    above = g.op("Greater", x, g.scalar(0, x))
    into_slope = None
    if g.wanted(s):
        below = g.op("Where", above, g.scalar(0, x), g.op("Mul", d, x))
        into_slope = g.unbroadcast(below, s, y)
    return [g.op("Where", above, d, g.op("Mul", d, s)) if g.wanted(x) else None, into_slope]


@rule("Elu")
def elu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or α(eˣ - 1) below 0: d, or d (y + α) below 0."""
    return [_exponential_below(node, only(gradients), float(node.attributes.get("alpha", 1.0)), 1.0, g)]


@rule("Celu")
def celu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or α(exp(x/α) - 1) below 0: d, or d (y/α + 1) below 0."""
    d, x, y = only(gradients), node.inputs[0], node.outputs[0]
    alpha = float(node.attributes.get("alpha", 1.0))
    slope = g.op("Add", g.op("Div", y, g.scalar(alpha, y)), g.scalar(1, y))
    return [g.op("Where", g.op("Greater", x, g.scalar(0, x)), d, g.op("Mul", d, slope))]


@rule("Selu")
def selu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = γx, or γα(eˣ - 1) below 0: γd, or d (y + γα) below 0."""
    alpha = float(node.attributes.get("alpha", 1.6732632423543772))
    gamma = float(node.attributes.get("gamma", 1.0507009873554805))
    return [_exponential_below(node, only(gradients), gamma * alpha, gamma, g)]


@rule("Softplus")
def softplus(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = ln(1 + eˣ): d sigmoid(x)."""
    return [g.op("Mul", only(gradients), g.op("Sigmoid", node.inputs[0]))]


@rule("Softsign")
def softsign(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x/(1 + |x|): d (1 - |y|)²."""
    d, y = only(gradients), node.outputs[0]
    rest = g.op("Sub", g.scalar(1, y), g.op("Abs", y))
    return [g.op("Mul", d, g.op("Mul", rest, rest))]


@rule("HardSigmoid")
def hard_sigmoid(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = min(max(αx + β, 0), 1): αd where 0 < y < 1."""
    d, y = only(gradients), node.outputs[0]
    alpha = float(node.attributes.get("alpha", 0.2))
    inside = g.op("And", g.op("Greater", y, g.scalar(0, y)), g.op("Less", y, g.scalar(1, y)))
    return [g.op("Where", inside, g.op("Mul", d, g.scalar(alpha, y)), g.scalar(0, y))]


@rule("HardSwish")
def hard_swish(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x min(max(x/6 + 1/2, 0), 1): d (0 below -3, 1 above 3, else x/3 + 1/2)."""
    d, x = only(gradients), node.inputs[0]
    middle = g.op("Add", g.op("Div", x, g.scalar(3, x)), g.scalar(0.5, x))
    slope = g.op("Where", g.op("Less", x, g.scalar(3, x)), middle, g.scalar(1, x))
    slope = g.op("Where", g.op("Greater", x, g.scalar(-3, x)), slope, g.scalar(0, x))
    return [g.op("Mul", d, slope)]


@rule("Gelu")
def gelu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x Φ(x): d (Φ(x) + x φ(x)); or the derivative of its tanh approximation.

    Hendrycks and Gimpel, 2016, "Gaussian Error Linear Units", section 2.
    """
    d, x = only(gradients), node.inputs[0]
    half, one = g.scalar(0.5, x), g.scalar(1, x)
    square = g.op("Mul", x, x)
    if node.attributes.get("approximate", b"none") in (b"tanh", "tanh"):
        c, cubic = math.sqrt(2 / math.pi), 0.044715
        inner = g.op("Mul", x, g.op("Add", g.op("Mul", square, g.scalar(c * cubic, x)), g.scalar(c, x)))
        t = g.op("Tanh", inner)
        slope = g.op("Add", g.op("Mul", square, g.scalar(3 * c * cubic, x)), g.scalar(c, x))
        bend = g.op("Mul", g.op("Sub", one, g.op("Mul", t, t)), g.op("Mul", x, slope))
        total = g.op("Add", g.op("Add", t, one), bend)
        return [g.op("Mul", d, g.op("Mul", total, half))]
    phi = g.op("Add", g.op("Mul", g.op("Erf", g.op("Mul", x, g.scalar(math.sqrt(0.5), x))), half), half)
    bell = g.op("Exp", g.op("Mul", square, g.scalar(-0.5, x)))
    bell = g.op("Mul", bell, g.scalar(1 / math.sqrt(2 * math.pi), x))
    return [g.op("Mul", d, g.op("Add", phi, g.op("Mul", x, bell)))]


@rule("Mish")
def mish(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x tanh(s), s = softplus(x): d (tanh s + x (1 - tanh² s) sigmoid(x))."""
    d, x = only(gradients), node.inputs[0]
    t = g.op("Tanh", g.op("Softplus", x))
    bend = g.op("Mul", g.op("Sub", g.scalar(1, x), g.op("Mul", t, t)), g.op("Sigmoid", x))
    return [g.op("Mul", d, g.op("Add", t, g.op("Mul", x, bend)))]


@rule("Dropout")
def dropout(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x m, with the mask m ∈ {0, 1/(1-p)} that the forward pass drew: d m."""
    mask = node.saved.get("mask")
    return [g.op("Mul", only(gradients), mask) if mask else only(gradients)]


def _split_at_zero(node: Node, d: str, slope: float, g: Tape) -> str:
    x = node.inputs[0]
    below = g.op("Mul", d, g.scalar(slope, x))
    return g.op("Where", g.op("Greater", x, g.scalar(0, x)), d, below)


def _exponential_below(node: Node, d: str, scale: float, slope: float, g: Tape) -> str:
    """`slope` d above 0; below, where y = scale (eˣ - 1), d (y + scale)."""
    x, y = node.inputs[0], node.outputs[0]
    above = d if slope == 1 else g.op("Mul", d, g.scalar(slope, y))
    below = g.op("Mul", d, g.op("Add", y, g.scalar(scale, y)))
    return g.op("Where", g.op("Greater", x, g.scalar(0, x)), above, below)
