"""How many clients are stacked at most: as many as stay near the processor's caches."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedloom_simulations.vectorised.chain import Chain

_ROOM = 24_000_000  # bytes of activations, parameters and their gradients; a constant, for equal results
_MOST = 256
_ENOUGH = 5  # clients that fit the processor's caches together, from which stacking was measured to pay
# Where most of the work is done client by client, in the caches of one, more are stacked, and few pay too.
_APART, _FEW, _ROOM_APART = 4, 5, 300_000_000


@dataclass(frozen=True)
class Room:
    """How many clients are stacked at most, 1 or more, whether that pays, and why."""

    clients: int
    pays: bool
    reason: str


def room_for(model: nn.Module, x: Tensor) -> Room:
    """The room for clients whose batches are like x (B, ...)."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(x)
    weights = sum(p.nbytes for p in model.parameters())
    del outputs
    one = 2 * sum(kept.values()) + 3 * weights
    fitting = max(1, min(_MOST, _ROOM // one))
    chain = Chain.of(model)
    if chain is not None and chain.works_apart(x):
        more = min(_MOST, max(_FEW, _APART * fitting), _ROOM_APART // one)
        return Room(max(fitting, more), more > 1, "convolutions with channels innermost, client by client")
    fill = "fit" if fitting >= _ENOUGH else "fill"
    return Room(fitting, fitting >= _ENOUGH, f"{fitting} clients of this model {fill} the processor's caches")
