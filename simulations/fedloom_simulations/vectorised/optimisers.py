"""`torch_trainer.optimisers` on stacked parameters: the same kernels, for many clients at once.

Clients are in descending order of their steps, so those who still train are always the first ones,
and every state and parameter of theirs is one contiguous piece.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from fedloom_client.training import Training

Update = Callable[[Sequence[Tensor], Sequence[Tensor]], None]
"""(parameters (A, ...), gradients (A, ...)) of the first A clients; the parameters change in place."""


def make_update(parameters: Sequence[Tensor], training: Training) -> Update:
    """A fresh optimiser for stacked `parameters` (K, ...)."""
    if training.optimizer in ("adam", "adamw"):
        return _adam(parameters, training)
    if training.optimizer == "rmsprop":
        return _rmsprop(parameters, training)
    return _sgd(parameters, training)


def _sgd(parameters: Sequence[Tensor], training: Training) -> Update:
    momentum = 0.0 if training.optimizer == "sgd" else training.momentum
    nesterov = training.optimizer == "nesterov" and momentum > 0
    # Zeros are what a first step of PyTorch's amounts to: without dampening its buffer is the gradient.
    buffers = [torch.zeros_like(p) for p in parameters] if momentum else []

    def update(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        active = len(parameters[0])
        kept: list[Tensor | None] = [b[:active] for b in buffers] or [None] * len(parameters)
        sgd(
            list(parameters), list(gradients), kept, has_sparse_grad=False, fused=True, foreach=False,
            weight_decay=training.weight_decay, momentum=momentum, lr=training.lr, dampening=0.0,
            nesterov=nesterov, maximize=False,
        )  # fmt: skip

    return update


def _adam(parameters: Sequence[Tensor], training: Training) -> Update:
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    steps = [torch.zeros(()) for _ in parameters]
    function = adam if training.optimizer == "adam" else adamw

    def update(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        active = len(parameters[0])
        function(
            list(parameters), list(gradients), [m[:active] for m in means], [s[:active] for s in squares],
            [], steps, fused=True, foreach=False, amsgrad=False, beta1=0.9, beta2=0.999, lr=training.lr,
            weight_decay=training.weight_decay, eps=1e-8, maximize=False,
        )  # fmt: skip

    return update


def _rmsprop(parameters: Sequence[Tensor], training: Training) -> Update:
    squares = [torch.zeros_like(p) for p in parameters]
    steps = [torch.zeros(()) for _ in parameters]

    def update(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        active = len(parameters[0])
        rmsprop(
            list(parameters), list(gradients), [s[:active] for s in squares], [], [], steps, foreach=True,
            lr=training.lr, alpha=0.99, eps=1e-8, weight_decay=training.weight_decay, momentum=0.0,
            centered=False,
        )  # fmt: skip

    return update
