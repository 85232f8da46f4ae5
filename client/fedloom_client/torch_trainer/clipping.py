"""Gradient clipping, by value and then by norm."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloom_client.training import Training


def clip(gradients: Sequence[Tensor], norm: float, training: Training) -> None:
    """Bound gradients in place: each element by `clip_value`, then their global norm by `clip_norm`.

    Args:
        gradients: of all parameters, any shapes.
        norm: their global L2 norm.
        training: both bounds; 0 is none.
    """
    if training.clip_value:
        for gradient in gradients:
            gradient.clamp_(-training.clip_value, training.clip_value)
    if training.clip_norm and norm > training.clip_norm:
        # Clipping by value has changed the norm, and can only have made it smaller.
        norm = global_norm(gradients) if training.clip_value else norm
        for gradient in gradients:
            gradient.mul_(min(training.clip_norm / norm, 1.0))


def global_norm(gradients: Sequence[Tensor]) -> float:
    """L2 norm of all elements together."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
