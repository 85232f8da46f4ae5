"""How many clients are stacked at most: as many as stay near the processor's caches."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedloom_simulations.engine.vectorised.chain import Chain

_ROOM = 24_000_000  # bytes of activations, parameters and their gradients; a constant, for equal results
_MOST = 256
_ENOUGH = 5  # clients that fit the processor's caches together, from which stacking was measured to pay
# Where most of the work is done client by client, in the caches of one, more are stacked, and few pay too.
_APART, _FEW, _ROOM_APART = 4, 5, 300_000_000
TINY = 128  # clients that fit, from which a step costs hardly more for many than for few
_HEAVY = 4e6  # multiply-adds of a convolution a batch, from which oneDNN is faster than onnxruntime


@dataclass(frozen=True)
class Room:
    """How many clients are stacked at most.

    Attributes:
        clients: 1 or more.
        pays: whether stacking does.
        reason: why.
        heavy: whether convolutions are most of a step.
    """

    clients: int
    pays: bool
    reason: str
    heavy: bool = False

    @property
    def tiny(self) -> bool:
        """Whether a stacked step costs hardly more for many clients than for few."""
        return self.pays and self.clients >= TINY


def room_for(model: nn.Module, x: Tensor) -> Room:
    """The room for clients whose batches are like x (B, ...)."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _convolutions(model) as work:
        outputs = model(x)
    weights = sum(p.nbytes for p in model.parameters())
    del outputs
    one = 2 * sum(kept.values()) + 3 * weights
    fitting = max(1, min(_MOST, _ROOM // one))
    heavy = max(work, default=0) >= _HEAVY
    chain = Chain.of(model)
    if chain is None and (heavy or fitting < TINY):  # under vmap only calls are saved, not their work
        what = "its convolutions are" if heavy else "a model with code of its own is"
        return Room(fitting, False, f"{what} faster one client after the other", heavy)
    if chain is not None and chain.works_apart(x):
        more = min(_MOST, max(_FEW, _APART * fitting), _ROOM_APART // one)
        reason = "convolutions with channels innermost, client by client"
        return Room(max(fitting, more), more > 1, reason, heavy)
    fill = "fit" if fitting >= _ENOUGH else "fill"
    reason = f"{fitting} clients of this model {fill} the processor's caches"
    return Room(fitting, fitting >= _ENOUGH, reason, heavy)


@contextmanager
def _convolutions(model: nn.Module) -> Iterator[list[int]]:
    """The multiply-adds of each convolution that is run."""
    work: list[int] = []

    def listen(layer: Any, inputs: Any, output: Tensor) -> None:
        work.append(output.numel() * math.prod(layer.weight.shape[1:]))

    layers = (m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d))
    hooks = [layer.register_forward_hook(listen) for layer in layers]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()
