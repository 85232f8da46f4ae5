"""A model's values for K clients, stacked, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedloom_client.torch_trainer.state import load_arrays
from fedloom_edge.arrays import Arrays


class Stacked:
    """Parameters and buffers of K clients, each (K, ...), that start from global arrays.

    Attributes:
        trained: parameters with a gradient by name.
        fixed: all other parameters and buffers by name.
    """

    def __init__(self, model: nn.Module, starts: Sequence[Arrays], clients: int) -> None:
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        own = {id(value): name for name, value in named.items()}
        # What travels is named as in state_dict, where a shared value stands under each of its names.
        kept = {name: own.get(id(value)) for name, value in model.state_dict(keep_vars=True).items()}
        self.names = {name: kept[name] for name in starts[0]}
        if len(starts) == 1:
            load_arrays(model, starts[0])
            values = {
                name: value.detach().expand(clients, *value.shape).clone() for name, value in named.items()
            }
        else:
            each = [self._loaded(model, named, start) for start in starts]
            values = {name: torch.stack([copies[name] for copies in each]) for name in named}
        self.trained = {
            name: values.pop(name).requires_grad_() for name, p in model.named_parameters() if p.requires_grad
        }
        self.fixed = values

    def write(self, out: Mapping[str, "np.ndarray[Any, Any]"]) -> None:
        """Copy the values into arrays (K, ...), named as what travels."""
        for name, own in self.names.items():
            value = self.trained[own] if own in self.trained else self.fixed[own]  # type: ignore[index]
            np.copyto(out[name], value.detach().numpy())

    @staticmethod
    def _loaded(model: nn.Module, named: Mapping[str, Tensor], start: Arrays) -> dict[str, Tensor]:
        load_arrays(model, start)
        return {name: value.detach().clone() for name, value in named.items()}
