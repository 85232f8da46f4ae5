"""Training forms and gradients of normalisations and softmax. d is the gradient of the output."""

import math

import numpy as np

from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node


@rule("Softmax")
def softmax(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = eˣ / Σ eˣ: y (d - Σ d y)."""
    d, y = only(gradients), node.outputs[0]
    axis = int(node.attributes.get("axis", -1))
    total = g.reduce(g.op("Mul", d, y), [axis], keep=True)
    return [g.op("Mul", y, g.op("Sub", d, total))]


@rule("LogSoftmax")
def log_softmax(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x - ln Σ eˣ: d - eʸ Σ d."""
    d, y = only(gradients), node.outputs[0]
    axis = int(node.attributes.get("axis", -1))
    return [g.op("Sub", d, g.op("Mul", g.op("Exp", y), g.reduce(d, [axis], keep=True)))]


@rule("LayerNormalization")
def layer_norm(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x̂ γ + β with x̂ = (x - μ) ρ: ρ (e - mean e - x̂ mean(e x̂)) with e = d γ; Σ d x̂; Σ d.

    Ba, Kiros and Hinton, 2016, "Layer Normalization".
    """
    d, (x, scale), y = only(gradients), node.inputs[:2], node.outputs[0]
    rank = g.values[x].rank
    axes = list(range(int(node.attributes.get("axis", -1)) % rank, rank))
    rho = node.saved["inverse deviation"]
    normal = g.op("Mul", g.op("Sub", x, node.saved["mean"]), rho)
    into: list[str | None] = [None, None, None]
    if g.wanted(x):
        into[0] = _through_moments(g.op("Mul", d, scale), normal, rho, axes, g)
    if g.wanted(scale):
        into[1] = g.unbroadcast(g.op("Mul", d, normal), scale, y)
    if (bias := node.input(2)) and g.wanted(bias):
        into[2] = g.unbroadcast(d, bias, y)
    return into


@rule("InstanceNormalization")
def instance_norm(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """As layer_norm, with moments of each channel of each example; γ, β (C).

    Ulyanov, Vedaldi and Lempitsky, 2016, "Instance Normalization", eq. 3.
    """
    d, (x, scale, bias) = only(gradients), node.inputs
    return _by_channel(node, d, scale, bias, list(range(2, g.values[x].rank)), g)


@rule("BatchNormalization")
def batch_norm(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """As layer_norm, with moments of each channel over the batch; or with fixed moments: d γ ρ.

    Ioffe and Szegedy, 2015, "Batch Normalization", section 3.
    """
    d, (x, scale, bias) = only(gradients), node.inputs[:3]
    if node.saved:
        return _batch_norm_in_training(node, d, g)
    mean, variance = node.inputs[3:5]
    column = _column(g.values[x].rank, g)
    epsilon = g.scalar(float(node.attributes.get("epsilon", 1e-5)), x)
    rho = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, epsilon)))
    axes = [0, *range(2, g.values[x].rank)]
    into: list[str | None] = [None, None, None]
    if g.wanted(x):
        into[0] = g.op("Mul", d, g.op("Reshape", g.op("Mul", scale, rho), column))
    if g.wanted(scale):
        centred = g.op("Sub", x, g.op("Reshape", mean, column))
        into[1] = g.op("Mul", g.reduce(g.op("Mul", d, centred), axes, keep=False), rho)
    if g.wanted(bias):
        into[2] = g.reduce(d, axes, keep=False)
    return into


def lower_layer_norm(node: Node, g: Tape) -> Node:
    """LayerNormalization that leaves its mean and inverse deviation for the backward pass."""
    mean, rho = g.fresh("mean"), g.fresh("deviation")
    g.write("LayerNormalization", node.inputs, [node.outputs[0], mean, rho], dict(node.attributes))
    return _with_saved(node, {"mean": mean, "inverse deviation": rho})


def lower_instance_norm(node: Node, g: Tape) -> Node:
    """Instance normalisation in primitive operators, which leave x̂ and ρ."""
    axes = list(range(2, g.values[node.inputs[0]].rank))
    _, rho, normal = _normalise(node, axes, g)
    _scale_and_shift(node, normal, g)
    return _with_saved(node, {"normal": normal, "inverse deviation": rho})


def lower_batch_norm(node: Node, g: Tape) -> tuple[Node, dict[str, str]]:
    """Batch normalisation with the batch's moments, and the new running ones.

    The output uses the biased variance, the running one takes the unbiased, as in PyTorch:
    running <- m running + (1 - m) batch's, with ONNX's momentum m (1 - PyTorch's).

    Returns:
        The node, and the new value's name for each statistic's name.
    """
    x, running_mean, running_variance = node.inputs[0], *node.inputs[3:5]
    axes = [0, *range(2, g.values[x].rank)]
    mean = g.reduce(x, axes, keep=True, kind="ReduceMean")
    flat = g.op("Reshape", mean, g.ints(-1))
    centred = _affine(x, None, None, g, mean=flat)
    # Not ReduceSumSquare, which takes twice the time of these two.
    variance = g.reduce(g.op("Mul", centred, centred), axes, keep=False, kind="ReduceMean")
    attributes = {"epsilon": float(node.attributes.get("epsilon", 1e-5))}
    g.write("BatchNormalization", [*node.inputs[:3], flat, variance], node.outputs[:1], attributes)
    count = _count(x, g)
    unbiased = g.op("Mul", variance, g.op("Div", count, g.op("Sub", count, g.scalar(1, x))))
    momentum = float(np.float32(node.attributes.get("momentum", 0.9)))
    new = {}
    for old, batch in ((running_mean, flat), (running_variance, unbiased)):
        kept = g.op("Mul", old, g.scalar(momentum, x))
        new[old] = g.op("Add", kept, g.op("Mul", batch, g.scalar(1 - momentum, x)))
    return _with_saved(node, {"centred": centred, "variance": variance}), new


def _batch_norm_in_training(node: Node, d: str, g: Tape) -> Gradients:
    """With c = x - μ, ρ = 1/√(σ² + ε) and sums over the n elements of a channel: Σd for the bias, ρ Σdc for
    the scale, and γρ d - γρ³ (Σdc / n) c - γρ Σd / n for x: an affine map of d plus one of c.
    """
    x, scale, bias = node.inputs[:3]
    axes = [0, *range(2, g.values[x].rank)]
    centred, variance = node.saved["centred"], node.saved["variance"]
    epsilon = g.scalar(float(np.float32(node.attributes.get("epsilon", 1e-5))), x)
    rho = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, epsilon)))  # (C)
    level = g.reduce(d, axes, keep=False)
    tilt = g.op("Mul", g.reduce(g.op("Mul", d, centred), axes, keep=False), rho)
    into: list[str | None] = [None, tilt if g.wanted(scale) else None, level if g.wanted(bias) else None]
    if g.wanted(x):
        count = _count(x, g)
        factor = g.op("Mul", scale, rho)
        shift = g.op("Neg", g.op("Div", g.op("Mul", factor, level), count))
        slope = g.op("Div", g.op("Mul", g.op("Mul", factor, rho), tilt), count)
        straight = _affine(d, factor, shift, g, like=x)
        into[0] = g.op("Sub", straight, _affine(centred, slope, None, g, like=x))
    return into


def _affine(
    x: str, scale: str | None, shift: str | None, g: Tape, *, mean: str | None = None, like: str = ""
) -> str:
    """scale (x - mean) + shift by channel, each (C): on small maps in half of broadcasting's time."""
    value = g.values[like or x]
    zero, one = (g.constant(np.full(value.typical[1], number), value.dtype) for number in (0, 1))
    given = (scale or one, shift or zero, mean or zero, one)
    return g.op("BatchNormalization", x, *given, epsilon=0.0)


def _count(x: str, g: Tape) -> str:
    """Number of elements of a channel, a float (1); written once for all values of these sizes."""
    value = g.values[x]
    key = (value.shape[0], value.typical[0], *value.typical[2:])
    if key not in g.counts:
        place = g.constant([math.prod(value.typical[2:])])
        g.counts[key] = g.op("Mul", g.op("Cast", g.op("Shape", x, start=0, end=1), to=1), place)
    return g.counts[key]


def _normalise(node: Node, axes: list[int], g: Tape) -> tuple[tuple[str, str], str, str]:
    """((mean, variance), ρ, x̂) over `axes`, which stay as 1."""
    x = node.inputs[0]
    mean = g.reduce(x, axes, keep=True, kind="ReduceMean")
    centred = g.op("Sub", x, mean)
    variance = g.reduce(g.op("Mul", centred, centred), axes, keep=True, kind="ReduceMean")
    epsilon = g.scalar(float(np.float32(node.attributes.get("epsilon", 1e-5))), x)
    rho = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, epsilon)))
    return (mean, variance), rho, g.op("Mul", centred, rho, like=x)


def _scale_and_shift(node: Node, normal: str, g: Tape) -> None:
    column = _column(g.values[node.inputs[0]].rank, g)
    scale, bias = (g.op("Reshape", name, column) for name in node.inputs[1:3])
    g.write("Add", [g.op("Mul", normal, scale), bias], node.outputs[:1], {})


def _by_channel(node: Node, d: str, scale: str, bias: str, axes: list[int], g: Tape) -> Gradients:
    x = node.inputs[0]
    rank = g.values[x].rank
    everywhere = [0, *range(2, rank)]
    normal, rho = node.saved["normal"], node.saved["inverse deviation"]
    into: list[str | None] = [None, None, None]
    if g.wanted(x):
        wide = g.op("Reshape", scale, _column(rank, g))
        into[0] = _through_moments(g.op("Mul", d, wide), normal, rho, axes, g)
    if g.wanted(scale):
        into[1] = g.reduce(g.op("Mul", d, normal), everywhere, keep=False)
    if g.wanted(bias):
        into[2] = g.reduce(d, everywhere, keep=False)
    return into


def _through_moments(e: str, normal: str, rho: str, axes: list[int], g: Tape) -> str:
    """ρ (e - mean e - x̂ mean(e x̂)), means over `axes`."""
    level = g.reduce(e, axes, keep=True, kind="ReduceMean")
    tilt = g.reduce(g.op("Mul", e, normal), axes, keep=True, kind="ReduceMean")
    rest = g.op("Sub", g.op("Sub", e, level), g.op("Mul", normal, tilt))
    return g.op("Mul", rest, rho)


def _column(rank: int, g: Tape) -> str:
    """Shape in which a vector of channels (C) broadcasts over (N, C, ...)."""
    return g.ints(-1, *[1] * (rank - 2))


def _with_saved(node: Node, saved: dict[str, str]) -> Node:
    return Node(node.op, node.name, node.inputs, node.outputs, node.attributes, saved)
