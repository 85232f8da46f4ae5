"""`torch_trainer.optimisers` on stacked parameters: the same kernels, for many clients at once.

Clients are in descending order of their steps, so those who still train are always the first ones,
and every state and parameter of theirs is one contiguous piece.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from fedloom_client.torch_trainer.optimisers import fresh, kernel
from fedloom_client.training import Training

Update = Callable[[Sequence[Tensor], Sequence[Tensor]], None]
"""(parameters (A, ...), gradients (A, ...)) of the first A clients; the parameters change in place."""


def make_update(parameters: Sequence[Tensor], training: Training) -> Update:
    """A fresh optimiser for stacked `parameters` (K, ...)."""
    kept, take_step = kernel(training)
    states = [fresh(p, kept) for p in parameters]

    def update(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        active = len(parameters[0])
        take_step(parameters, gradients, [[*(t[:active] for t in state[:-1]), state[-1]] for state in states])

    return update
