"""Gradients of reductions. d is the gradient of the output, with the reduced axes put back as 1."""

import math

import numpy as np

from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError


@rule("ReduceSum")
def reduce_sum(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ x: d for every element."""
    return [_spread(node, _kept(node, only(gradients), g), g)]


@rule("ReduceMean", "GlobalAveragePool")
def reduce_mean(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ x / n: d / n for every element."""
    x = g.values[node.inputs[0]]
    axes = _axes(node, g)
    d = _kept(node, only(gradients), g)
    if all(x.shape[axis] is not None for axis in axes):
        count = g.scalar(math.prod(x.typical[axis] for axis in axes), node.inputs[0])
    else:
        sizes = g.op("Gather", g.op("Shape", node.inputs[0]), g.ints(*axes))
        count = g.op("Cast", g.op("ReduceProd", sizes, keepdims=0), to=g.onnx_type(node.inputs[0]))
    d = g.op("Div", d, count)
    if node.op == "GlobalAveragePool" and None not in x.shape[2:]:
        # A product with ones: Expand over inner axes takes twenty times as long.
        ones = g.constant(np.ones((1, math.prod(x.typical[2:]))), x.dtype)
        return [g.reshape_like(g.op("MatMul", g.op("Reshape", d, g.ints(0, 0, 1)), ones), node.inputs[0])]
    return [_spread(node, d, g)]


@rule("ReduceMax", "ReduceMin", "GlobalMaxPool")
def reduce_max(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = max x: d where x is y, shared evenly between equals (as PyTorch's amax has it)."""
    x = node.inputs[0]
    y, d = (_kept(node, name, g) for name in (node.outputs[0], only(gradients)))
    hit = g.op("Cast", g.op("Equal", x, y), to=g.onnx_type(x))
    share = g.op("Div", d, g.reduce(hit, _axes(node, g), keep=True))
    return [g.op("Mul", hit, share)]


@rule("ReduceSumSquare")
def reduce_sum_square(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ x²: 2 d x."""
    x = node.inputs[0]
    d = g.op("Mul", _kept(node, only(gradients), g), g.scalar(2, x))
    return [g.op("Mul", d, x)]


@rule("ReduceL1")
def reduce_l1(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Σ |x|: d sign(x)."""
    return [g.op("Mul", _kept(node, only(gradients), g), g.op("Sign", node.inputs[0]))]


@rule("ReduceL2")
def reduce_l2(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = √Σ x²: d x / y, and 0 where y is 0."""
    x = node.inputs[0]
    y, d = (_kept(node, name, g) for name in (node.outputs[0], only(gradients)))
    zero = g.op("Equal", y, g.scalar(0, x))
    ratio = g.op("Div", d, g.op("Where", zero, g.scalar(1, x), y))
    return [g.op("Mul", g.op("Where", zero, g.scalar(0, x), ratio), x)]


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = ln Σ eˣ: d exp(x - y)."""
    y, d = (_kept(node, name, g) for name in (node.outputs[0], only(gradients)))
    return [g.op("Mul", d, g.op("Exp", g.op("Sub", node.inputs[0], y)))]


@rule("ReduceLogSum")
def reduce_log_sum(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = ln Σ x: d exp(-y)."""
    y, d = (_kept(node, name, g) for name in (node.outputs[0], only(gradients)))
    return [_spread(node, g.op("Mul", d, g.op("Exp", g.op("Neg", y))), g)]


@rule("ReduceProd")
def reduce_product(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = Π x: d y / x. Where x is 0 that is 0 / 0: NaN stops the training rather than misleads it."""
    y, d = (_kept(node, name, g) for name in (node.outputs[0], only(gradients)))
    return [g.op("Div", g.op("Mul", d, y), node.inputs[0])]


@rule("CumSum")
def cumulative_sum(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """yᵢ = Σ xⱼ over j <= i: Σ dᵢ over i >= j."""
    reverse = 1 - int(node.attributes.get("reverse", 0))
    exclusive = int(node.attributes.get("exclusive", 0))
    return [g.op("CumSum", only(gradients), node.inputs[1], reverse=reverse, exclusive=exclusive)]


def _axes(node: Node, g: Tape) -> list[int]:
    rank = g.values[node.inputs[0]].rank
    if node.op.startswith("Global"):
        return list(range(2, rank))
    if node.input(1):
        constant = g.values[node.inputs[1]].constant
        if constant is None:
            raise InputError(f"{node} takes its axes from a computed value; export it with fixed ones")
        axes = [int(axis) % rank for axis in np.ravel(constant)]
    else:
        axes = [int(axis) % rank for axis in node.attributes.get("axes", [])]
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return []
    return sorted(axes) or list(range(rank))


def _kept(node: Node, name: str, g: Tape) -> str:
    """`name`, shaped like the output, with the reduced axes as 1."""
    if node.op.startswith("Global") or node.attributes.get("keepdims", 1):
        return name
    return g.op("Unsqueeze", name, g.ints(*_axes(node, g)))


def _spread(node: Node, d: str, g: Tape) -> str:
    return g.op("Expand", d, g.shape_of(node.inputs[0]))
