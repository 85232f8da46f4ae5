"""Losses by the names a task uses."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, ...), targets (B, ...)) -> mean over the batch, a scalar."""


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """On logits (B, classes); targets int64 (B,)."""
    return functional.cross_entropy(outputs, targets)


# The reshapes: an output (B, 1) beside targets (B,) would broadcast to (B, B) without a word.


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """On logits (B,) or (B, 1); targets from 0 to 1 (B,) or (B, 1)."""
    return functional.binary_cross_entropy_with_logits(outputs.reshape(targets.shape), targets)


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs.reshape(targets.shape), targets)


def _huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Quadratic within 1 of the target, linear beyond (Huber, 1964)."""
    return functional.huber_loss(outputs.reshape(targets.shape), targets)


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": _mse,
    "huber": _huber,
}
