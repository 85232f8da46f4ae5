"""The losses of `torch_trainer.losses`, one value an example: a batch's loss is their weighted sum."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    loss = functional.binary_cross_entropy_with_logits
    return _by_example(loss(outputs.reshape(targets.shape), targets, reduction="none"))


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return _by_example(functional.mse_loss(outputs.reshape(targets.shape), targets, reduction="none"))


def _huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return _by_example(functional.huber_loss(outputs.reshape(targets.shape), targets, reduction="none"))


def _by_example(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": _mse,
    "huber": _huber,
}
"""(outputs (B, ...), targets (B, ...)) -> loss of each example (B,)."""
