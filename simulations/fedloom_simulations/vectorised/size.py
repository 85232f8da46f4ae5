"""How many clients are stacked at most: as many as stay near the processor's caches."""

import torch
from torch import Tensor, nn

_ROOM = 24_000_000  # bytes of activations, parameters and their gradients; a constant, for equal results
_MOST = 256


def clients_that_fit(model: nn.Module, x: Tensor) -> int:
    """Clients whose step on inputs like x (B, ...) stays within the room; at least 1."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(x)
    weights = sum(p.nbytes for p in model.parameters())
    del outputs
    return max(1, min(_MOST, _ROOM // (2 * sum(kept.values()) + 3 * weights)))
