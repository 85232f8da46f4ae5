"""Losses as graph parts: each writes the mean loss over the batch and its gradient at the outputs.

N is the batch size; for the losses over targets of any shape, n is the number of targets.
"""

from collections.abc import Callable

from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.errors import InputError

Loss = Callable[[str, str, Tape], tuple[str, str]]
"""(outputs, targets, g) -> (loss (), gradient of the outputs)."""


def cross_entropy(z: str, y: str, g: Tape) -> tuple[str, str]:
    """-1/N Σ ln softmax(z)[y] on logits z (N, K) and classes y (N,) int64; (softmax(z) - onehot(y)) / N."""
    classes = g.values[z].typical[1]
    log_p = g.op("LogSoftmax", z, axis=-1)
    share = g.op("Reciprocal", _count(y, g))
    # One-hot rows of -1/N: both results need one operator less, which counts in the smallest models.
    hot = g.op("OneHot", y, g.ints(classes), g.op("Mul", share, g.constant([0, -1])))
    loss = g.op("ReduceSum", g.op("Mul", log_p, hot), keepdims=0)
    return loss, g.op("Add", g.op("Mul", g.op("Exp", log_p), share), hot)


def binary_cross_entropy(z: str, y: str, g: Tape) -> tuple[str, str]:
    """1/n Σ (max(z, 0) - z y + ln(1 + e^-|z|)) on logits z; (sigmoid(z) - y) / n."""
    flat = _like_targets(z, y, g)
    rest = g.op("Log", g.op("Add", g.op("Exp", g.op("Neg", g.op("Abs", flat))), g.constant(1.0)))
    losses = g.op("Add", g.op("Sub", g.op("Relu", flat), g.op("Mul", flat, y)), rest)
    slope = g.op("Sub", g.op("Sigmoid", flat), y)
    return _mean(losses, slope, z, y, g)


def mse(z: str, y: str, g: Tape) -> tuple[str, str]:
    """1/n Σ (z - y)²; 2 (z - y) / n."""
    difference = g.op("Sub", _like_targets(z, y, g), y)
    return _mean(g.op("Mul", difference, difference), g.op("Add", difference, difference), z, y, g)


def huber(z: str, y: str, g: Tape) -> tuple[str, str]:
    """1/n Σ h(z - y), h(e) = e²/2 for |e| < 1, else |e| - 1/2; clip(z - y, -1, 1) / n (Huber, 1964).

    With c = clip(e, -1, 1), h(e) = c (e - c/2).
    """
    difference = g.op("Sub", _like_targets(z, y, g), y)
    slope = g.op("Clip", difference, g.constant(-1.0), g.constant(1.0))
    losses = g.op("Mul", slope, g.op("Sub", difference, g.op("Mul", slope, g.constant(0.5))))
    return _mean(losses, slope, z, y, g)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mse,
    "huber": huber,
}


def check_output(loss: str, output: str, g: Tape) -> None:
    """Refuse an output that the loss cannot take.

    Raises:
        InputError: cross_entropy without (N, classes), or no floats.
    """
    value = g.values[output]
    if not value.is_float:
        raise InputError(f"output {output!r} is {value.dtype}; a loss needs floats")
    if loss == "cross_entropy" and value.rank != 2:
        raise InputError(
            f"output {output!r} has shape {value.shape} (None: the batch); "
            "cross_entropy needs (batch, classes)"
        )


def _like_targets(z: str, y: str, g: Tape) -> str:
    """Outputs in the targets' shape: (B, 1) beside (B,) would broadcast to (B, B) without a word."""
    return g.op("Reshape", z, g.op("Shape", y))


def _mean(losses: str, slope: str, z: str, y: str, g: Tape) -> tuple[str, str]:
    loss = g.op("ReduceMean", losses, keepdims=0)
    return loss, g.reshape_like(g.op("Div", slope, _count(y, g)), z)


def _count(y: str, g: Tape) -> str:
    """The number of targets (1,): a runtime folds Shape away where the batch is fixed, and Size not."""
    return g.op("Cast", g.op("Shape", y), to=1)
