"""Optimisers by the names that `Training.optimizer` takes, with PyTorch's semantics, defaults and kernels.

The kernels are called without `torch.optim.Optimizer`, whose first use imports torch's compiler: nearly a
second on a desktop processor.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from fedloom_client.training import Training

State = list[Tensor]
"""What is kept of one parameter from step to step."""
Update = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[State]], None]
"""(parameters, gradients, states): parameters and states change in place."""


class Optimiser:
    """A fresh optimiser: a client keeps no momentum between rounds, the global model has moved.

    Fused, where there is a fused kernel: a step of the digits model took 53 µs instead of 115 (momentum)
    and 108 instead of 378 (Adam); of the sentiment model with Adam, 0.35 ms instead of 7.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], training: Training) -> None:
        self._parameters = list(parameters)
        self._states: dict[int, State] = {}
        self._kept, self._update = kernel(training)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient; the state of the others stands still."""
        moved = [(i, p, p.grad) for i, p in enumerate(self._parameters) if p.grad is not None]
        if not moved:
            return
        for i, p, _ in moved:
            if i not in self._states:
                self._states[i] = fresh(p, self._kept)
        self._update([p for _, p, _ in moved], [g for *_, g in moved], [self._states[i] for i, *_ in moved])


def fresh(parameter: Tensor, kept: int) -> State:
    """The state before the first step: `kept` tensors like the parameter, and a counter of steps."""
    return [*(torch.zeros_like(parameter) for _ in range(kept)), torch.zeros(())]


def kernel(training: Training) -> tuple[int, Update]:
    """How many tensors are kept of a parameter, and what takes a step."""
    lr, decay = training.lr, training.weight_decay
    if training.optimizer in ("adam", "adamw"):
        function = adam if training.optimizer == "adam" else adamw

        def adapt(parameters: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[State]) -> None:
            means, squares, steps = map(list, zip(*states, strict=True))
            function(
                list(parameters), list(gradients), means, squares, [], steps, fused=True, foreach=False,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=lr, weight_decay=decay, eps=1e-8, maximize=False,
            )  # fmt: skip

        return 2, adapt
    if training.optimizer == "rmsprop":

        def scale(parameters: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[State]) -> None:
            squares, steps = map(list, zip(*states, strict=True))
            rmsprop(
                list(parameters), list(gradients), squares, [], [], steps, foreach=True, lr=lr, alpha=0.99,
                eps=1e-8, weight_decay=decay, momentum=0.0, centered=False,
            )  # fmt: skip

        return 1, scale
    momentum = 0.0 if training.optimizer == "sgd" else training.momentum
    # PyTorch refuses Nesterov without momentum; the two are then the same.
    nesterov = training.optimizer == "nesterov" and momentum > 0

    def descend(parameters: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[State]) -> None:
        # Zeros are what a first step of PyTorch's amounts to: without dampening its buffer is the gradient.
        buffers: list[Tensor | None] = [state[0] if momentum else None for state in states]
        sgd(
            list(parameters), list(gradients), buffers, has_sparse_grad=False, fused=True, foreach=False,
            weight_decay=decay, momentum=momentum, lr=lr, dampening=0.0, nesterov=nesterov, maximize=False,
        )  # fmt: skip

    return int(momentum > 0), descend
