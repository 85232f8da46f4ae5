"""Gradients of operators that work element by element, with ONNX's multidirectional broadcasting.

In the formulas x, y are an operator's input and output and d is the gradient of y. Where a gradient is
written as a function of y rather than x, x need not be kept.
"""

import math

from fedloom_edge.autodiff.rules import FLAT, Gradients, Tape, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError

FLAT |= {
    "Sign", "Floor", "Ceil", "Round", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not",
    "And", "Or", "Xor", "IsNaN", "IsInf", "ArgMax", "ArgMin", "Shape", "Size", "NonZero", "OneHot",
    "ConstantOfShape", "Range", "EyeLike",
}  # fmt: skip


@rule("Add", "Sum")
def add(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ xᵢ: d for each, summed over its broadcast axes."""
    d, y = _only(gradients), node.outputs[0]
    return [g.unbroadcast(d, x, y) if g.wanted(x) else None for x in node.inputs]


@rule("Sub")
def subtract(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a - b: d and -d."""
    d, y, (a, b) = _only(gradients), node.outputs[0], node.inputs
    return [
        g.unbroadcast(d, a, y) if g.wanted(a) else None,
        g.op("Neg", g.unbroadcast(d, b, y)) if g.wanted(b) else None,
    ]


@rule("Mul")
def multiply(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a b: d b and d a."""
    d, y, (a, b) = _only(gradients), node.outputs[0], node.inputs
    return [
        g.unbroadcast(g.op("Mul", d, b), a, y) if g.wanted(a) else None,
        g.unbroadcast(g.op("Mul", d, a), b, y) if g.wanted(b) else None,
    ]


@rule("Div")
def divide(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a / b: d / b and -d y / b."""
    d, y, (a, b) = _only(gradients), node.outputs[0], node.inputs
    quotient = g.op("Div", d, b)
    return [
        g.unbroadcast(quotient, a, y) if g.wanted(a) else None,
        g.op("Neg", g.unbroadcast(g.op("Mul", quotient, y), b, y)) if g.wanted(b) else None,
    ]


@rule("Pow")
def power(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a^b: d b a^(b-1) and d y ln a, the latter 0 where a is 0 (as PyTorch has it)."""
    d, y, (a, b) = _only(gradients), node.outputs[0], node.inputs
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
    d, y = _only(gradients), node.outputs[0]
    if len(node.inputs) == 1:
        return [d]
    hits = [g.op("Cast", g.op("Equal", x, y), to=_onnx_type(g, y)) for x in node.inputs]
    share = g.op("Div", d, g.sum(hits))
    return [
        g.unbroadcast(g.op("Mul", share, hit), x, y) if g.wanted(x) else None
        for x, hit in zip(node.inputs, hits, strict=True)
    ]


@rule("Mean")
def mean(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ xᵢ / n: d / n for each."""
    share = g.op("Div", _only(gradients), g.scalar(len(node.inputs), node.outputs[0]))
    return add(node, [share], g)


@rule("Where")
def where(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = a where c, else b: d where c, and d where not c."""
    d, y, (c, a, b) = _only(gradients), node.outputs[0], node.inputs
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
    d, x, y = _only(gradients), node.inputs[0], node.outputs[0]
    ends = [g.values[name].constant if name else None for name in (node.input(1), node.input(2))]
    if [end if end is None else float(end) for end in ends] != [0, 6]:
        return [g.masked(d, g.op("Equal", x, y), x)]
    inside = g.op("And", g.op("Greater", y, g.scalar(0, y)), g.op("Less", y, g.scalar(6, y)))
    return [g.masked(d, inside, y)]


@rule("Neg")
def negate(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = -x: -d."""
    return [g.op("Neg", _only(gradients))]


@rule("Abs")
def absolute(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = |x|: d sign(x)."""
    return [g.op("Mul", _only(gradients), g.op("Sign", node.inputs[0]))]


@rule("Identity")
def identity(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x: d."""
    return [_only(gradients)]


@rule("Cast")
def cast(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Between float types: d, cast back."""
    return [g.op("Cast", _only(gradients), to=_onnx_type(g, node.inputs[0]))]


@rule("Exp")
def exponential(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = eˣ: d y."""
    return [g.op("Mul", _only(gradients), node.outputs[0])]


@rule("Log")
def logarithm(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = ln x: d / x."""
    return [g.op("Div", _only(gradients), node.inputs[0])]


@rule("Sqrt")
def square_root(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = √x: d / 2y."""
    y = node.outputs[0]
    return [g.op("Div", _only(gradients), g.op("Mul", y, g.scalar(2, y)))]


@rule("Reciprocal")
def reciprocal(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = 1/x: -d y²."""
    y = node.outputs[0]
    return [g.op("Neg", g.op("Mul", _only(gradients), g.op("Mul", y, y)))]


@rule("Sin")
def sine(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = sin x: d cos x."""
    return [g.op("Mul", _only(gradients), g.op("Cos", node.inputs[0]))]


@rule("Cos")
def cosine(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = cos x: -d sin x."""
    return [g.op("Neg", g.op("Mul", _only(gradients), g.op("Sin", node.inputs[0])))]


@rule("Erf")
def error_function(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = erf x: d 2/√π exp(-x²)."""
    x = node.inputs[0]
    bell = g.op("Exp", g.op("Neg", g.op("Mul", x, x)))
    return [g.op("Mul", _only(gradients), g.op("Mul", bell, g.scalar(2 / math.sqrt(math.pi), x)))]


@rule("Tanh")
def hyperbolic_tangent(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = tanh x: d (1 - y²)."""
    d, y = _only(gradients), node.outputs[0]
    return [g.op("Mul", d, g.op("Sub", g.scalar(1, y), g.op("Mul", y, y)))]


@rule("Sigmoid")
def sigmoid(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = 1/(1 + e⁻ˣ): d y (1 - y)."""
    d, y = _only(gradients), node.outputs[0]
    return [g.op("Mul", d, g.op("Mul", y, g.op("Sub", g.scalar(1, y), y)))]


@rule("Relu")
def relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = max(x, 0): d where y > 0."""
    d, y = _only(gradients), node.outputs[0]
    return [g.masked(d, g.op("Greater", y, g.scalar(0, y)), y)]


@rule("LeakyRelu")
def leaky_relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or αx below 0: d, or αd below 0."""
    slope = float(node.attributes.get("alpha", 0.01))
    return [_split_at_zero(node, _only(gradients), slope, g)]


@rule("ThresholdedRelu")
def thresholded_relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x above α, else 0: d where x > α."""
    d, x = _only(gradients), node.inputs[0]
    above = g.op("Greater", x, g.scalar(float(node.attributes.get("alpha", 1.0)), x))
    return [g.masked(d, above, x)]


@rule("PRelu")
def parametric_relu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or s x below 0: (d, or s d) and (0, or x d)."""
    d, (x, s), y = _only(gradients), node.inputs, node.outputs[0]
    above = g.op("Greater", x, g.scalar(0, x))
    into_slope = None
    if g.wanted(s):
        below = g.op("Where", above, g.scalar(0, x), g.op("Mul", d, x))
        into_slope = g.unbroadcast(below, s, y)
    return [g.op("Where", above, d, g.op("Mul", d, s)) if g.wanted(x) else None, into_slope]


@rule("Elu")
def elu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or α(eˣ - 1) below 0: d, or d (y + α) below 0."""
    return [_exponential_below(node, _only(gradients), float(node.attributes.get("alpha", 1.0)), 1.0, g)]


@rule("Celu")
def celu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x, or α(exp(x/α) - 1) below 0: d, or d (y/α + 1) below 0."""
    d, x, y = _only(gradients), node.inputs[0], node.outputs[0]
    alpha = float(node.attributes.get("alpha", 1.0))
    slope = g.op("Add", g.op("Div", y, g.scalar(alpha, y)), g.scalar(1, y))
    return [g.op("Where", g.op("Greater", x, g.scalar(0, x)), d, g.op("Mul", d, slope))]


@rule("Selu")
def selu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = γx, or γα(eˣ - 1) below 0: γd, or d (y + γα) below 0."""
    alpha = float(node.attributes.get("alpha", 1.6732632423543772))
    gamma = float(node.attributes.get("gamma", 1.0507009873554805))
    return [_exponential_below(node, _only(gradients), gamma * alpha, gamma, g)]


@rule("Softplus")
def softplus(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = ln(1 + eˣ): d sigmoid(x)."""
    return [g.op("Mul", _only(gradients), g.op("Sigmoid", node.inputs[0]))]


@rule("Softsign")
def softsign(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x/(1 + |x|): d (1 - |y|)²."""
    d, y = _only(gradients), node.outputs[0]
    rest = g.op("Sub", g.scalar(1, y), g.op("Abs", y))
    return [g.op("Mul", d, g.op("Mul", rest, rest))]


@rule("HardSigmoid")
def hard_sigmoid(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = min(max(αx + β, 0), 1): αd where 0 < y < 1."""
    d, y = _only(gradients), node.outputs[0]
    alpha = float(node.attributes.get("alpha", 0.2))
    inside = g.op("And", g.op("Greater", y, g.scalar(0, y)), g.op("Less", y, g.scalar(1, y)))
    return [g.op("Where", inside, g.op("Mul", d, g.scalar(alpha, y)), g.scalar(0, y))]


@rule("HardSwish")
def hard_swish(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x min(max(x/6 + 1/2, 0), 1): d (0 below -3, 1 above 3, else x/3 + 1/2)."""
    d, x = _only(gradients), node.inputs[0]
    middle = g.op("Add", g.op("Div", x, g.scalar(3, x)), g.scalar(0.5, x))
    slope = g.op("Where", g.op("Less", x, g.scalar(3, x)), middle, g.scalar(1, x))
    slope = g.op("Where", g.op("Greater", x, g.scalar(-3, x)), slope, g.scalar(0, x))
    return [g.op("Mul", d, slope)]


@rule("Gelu")
def gelu(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x Φ(x): d (Φ(x) + x φ(x)); or the derivative of its tanh approximation.

    Hendrycks and Gimpel, 2016, "Gaussian Error Linear Units", section 2.
    """
    d, x = _only(gradients), node.inputs[0]
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
    d, x = _only(gradients), node.inputs[0]
    t = g.op("Tanh", g.op("Softplus", x))
    bend = g.op("Mul", g.op("Sub", g.scalar(1, x), g.op("Mul", t, t)), g.op("Sigmoid", x))
    return [g.op("Mul", d, g.op("Add", t, g.op("Mul", x, bend)))]


@rule("Dropout")
def dropout(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x m, with the mask m ∈ {0, 1/(1-p)} that the forward pass drew: d m."""
    mask = node.saved.get("mask")
    return [g.op("Mul", _only(gradients), mask) if mask else _only(gradients)]


def _only(gradients: Gradients) -> str:
    """The gradient of the first output; a rule is called only if there is one."""
    if gradients[0] is None:
        raise InputError("only a second output of an operator is used; export the model without it")
    return gradients[0]


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


def _onnx_type(g: Tape, name: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(g.values[name].dtype))
