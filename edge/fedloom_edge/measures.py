"""Losses and the standard metric of whole sets of outputs, in numpy, by the names a task uses."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def target_type(loss: str) -> type[np.generic]:
    """Dtype that the targets of a loss have: int64 classes, or float32."""
    return np.int64 if loss == "cross_entropy" else np.float32


def mean_loss(loss: str, outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean loss of outputs (N, ...) for targets (N, ...), as the train step computes it."""
    z = np.asarray(outputs, np.float64)
    if loss == "cross_entropy":
        highest = z.max(axis=1)
        log_sum = highest + np.log(np.exp(z - highest[:, np.newaxis]).sum(axis=1))
        return float(np.mean(log_sum - z[np.arange(len(z)), targets]))
    z = z.reshape(targets.shape)
    if loss == "binary_cross_entropy":
        return float(np.mean(np.maximum(z, 0) - z * targets + np.log1p(np.exp(-np.abs(z)))))
    difference = z - targets
    if loss == "mse":
        return float(np.mean(difference**2))
    bounded = np.clip(difference, -1, 1)
    return float(np.mean(bounded * (difference - bounded / 2)))


def standard_metric(loss: str, outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Accuracy for the cross-entropies, mean absolute error for the others."""
    if loss == "cross_entropy":
        return float(np.mean(outputs.argmax(axis=1) == targets))
    if loss == "binary_cross_entropy":
        return float(np.mean((outputs.reshape(targets.shape) > 0) == (targets > 0.5)))
    return float(np.mean(np.abs(outputs.reshape(targets.shape) - targets)))
