"""Gradients of matrix products. A, B are the factors, Y the product, D its gradient."""

from fedloom_edge.autodiff.rules import Gradients, Tape, rule
from fedloom_edge.autodiff.values import Node


@rule("Gemm")
def gemm(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Y = αA'B' + βC with A' = A or Aᵀ: A' gets αDB'ᵀ, B' gets αA'ᵀD, C gets βD summed to its shape."""
    (d, *_), (a, b) = gradients, node.inputs[:2]
    assert d is not None
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    flip_a, flip_b = (int(node.attributes.get(name, 0)) for name in ("transA", "transB"))
    into: list[str | None] = [None, None, None]
    if g.wanted(a):
        pair = (b, d, flip_b, 1) if flip_a else (d, b, 0, 1 - flip_b)
        into[0] = g.op("Gemm", *pair[:2], alpha=alpha, transA=pair[2], transB=pair[3])
    if g.wanted(b):
        pair = (d, a, 1, flip_a) if flip_b else (a, d, 1 - flip_a, 0)
        into[1] = g.op("Gemm", *pair[:2], alpha=alpha, transA=pair[2], transB=pair[3])
    if (c := node.input(2)) and g.wanted(c):
        scaled = d if beta == 1 else g.op("Mul", d, g.scalar(beta, c))
        into[2] = g.unbroadcast(scaled, c, node.outputs[0])
    return into


@rule("MatMul")
def matmul(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """Y = AB over the last two axes, the others broadcast: A gets DBᵀ, B gets AᵀD."""
    (d, *_), (a, b) = gradients, node.inputs
    assert d is not None
    rank_a, rank_b = g.values[a].rank, g.values[b].rank
    if rank_a >= 2 and rank_b == 2:
        return [
            g.op("MatMul", d, g.transpose(b, 1, 0)) if g.wanted(a) else None,
            _tall_product(a, d, g) if g.wanted(b) else None,
        ]
    return [
        _into_left(node, d, g) if g.wanted(a) else None,
        _into_right(node, d, g) if g.wanted(b) else None,
    ]


def _tall_product(a: str, d: str, g: Tape) -> str:
    """AᵀD (K, N) of A (..., K) and D (..., N): one product over all leading axes together."""
    rows = g.values[a].typical[-1]
    if g.values[a].rank > 2:
        a = g.op("Reshape", a, g.ints(-1, rows))
        d = g.op("Flatten", d, axis=-1)
    return g.op("Gemm", a, d, transA=1)


def _into_left(node: Node, d: str, g: Tape) -> str:
    a, b = node.inputs
    rank_a, rank_b = g.values[a].rank, g.values[b].rank
    if rank_a == 1:  # (K) @ (..., K, N): as (1, K)
        d = g.op("Unsqueeze", d, g.ints(-2 if rank_b > 1 else 0))
    if rank_b == 1:  # (..., K) @ (K): D (..., 1) times Bᵀ (1, K)
        product = g.op("Mul", d if rank_a == 1 else g.op("Unsqueeze", d, g.ints(-1)), b)
    else:
        product = g.op("MatMul", d, _swapped(b, g))
    return _fit(product, a, node, g, drop=-2 if rank_a == 1 and rank_b > 1 else None)


def _into_right(node: Node, d: str, g: Tape) -> str:
    a, b = node.inputs
    rank_a, rank_b = g.values[a].rank, g.values[b].rank
    if rank_b == 1:  # (..., K) @ (K): Aᵀ d, summed over every leading axis
        if rank_a == 1:
            return g.op("Mul", a, d)
        product = g.op("Mul", a, g.op("Unsqueeze", d, g.ints(-1)))
        return g.reduce(product, range(rank_a - 1), keep=False)
    if rank_a == 1:  # (K) @ (..., K, N): outer products
        return g.op("Mul", g.op("Unsqueeze", a, g.ints(1)), g.op("Unsqueeze", d, g.ints(-2)))
    return _fit(g.op("MatMul", _swapped(a, g), d), b, node, g)


def _swapped(name: str, g: Tape) -> str:
    rank = g.values[name].rank
    return g.transpose(name, *range(rank - 2), rank - 1, rank - 2)


def _fit(product: str, source: str, node: Node, g: Tape, drop: int | None = None) -> str:
    """Sum a factor's gradient over the batch axes that the factor was broadcast along."""
    small = g.values[source].typical[:-2] if g.values[source].rank > 1 else ()
    other = node.inputs[1] if source == node.inputs[0] else node.inputs[0]
    large = g.values[other].typical[:-2]
    rank = max(len(small), len(large))
    padded = (1,) * (rank - len(small)) + small
    target = (1,) * (rank - len(large)) + large
    axes = [axis for axis in range(rank) if padded[axis] == 1 and target[axis] != 1]
    missing = set(range(rank - len(small)))
    if drop is not None:  # a vector stood for a matrix with one row
        return g.reduce(product, [*range(rank), rank], keep=False)
    if not axes and not missing:
        return product
    summed = g.reduce(product, sorted({*axes, *missing}), keep=False)
    return g.reshape_like(summed, source) if set(axes) - missing else summed
