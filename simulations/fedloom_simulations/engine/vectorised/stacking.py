"""A model's values for K clients, stacked, and back."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedloom_client.torch_trainer.state import load_arrays
from fedloom_edge.arrays import Arrays


class Stacked:
    """Parameters and buffers of K clients, each (K, ...), that start from global arrays.

    Args:
        model: one client's.
        starts: the arrays that all start from, or one each.
        clients: K.
        turned: names of weights that are kept with their last two axes swapped.
        frozen: names of parameters that are not to be trained.

    Attributes:
        trained: parameters with a gradient by name.
        fixed: all other parameters and buffers by name.
    """

    def __init__(
        self,
        model: nn.Module,
        starts: Sequence[Arrays],
        clients: int,
        turned: Set[str] = frozenset(),
        frozen: Set[str] = frozenset(),
    ) -> None:
        self._turned = turned
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        own = {id(value): name for name, value in named.items()}
        # What travels is named as in state_dict, where a shared value stands under each of its names.
        kept = {name: own.get(id(value)) for name, value in model.state_dict(keep_vars=True).items()}
        self.names = {name: kept[name] for name in starts[0]}
        if len(starts) == 1:
            load_arrays(model, starts[0])
            values = {
                name: self._own(name, value.detach().expand(clients, *value.shape))
                for name, value in named.items()
            }
        else:
            each = [self._loaded(model, named, start) for start in starts]
            values = {name: self._own(name, torch.stack([copies[name] for copies in each])) for name in named}
        self.trained = {
            name: values.pop(name).requires_grad_()
            for name, p in model.named_parameters()
            if p.requires_grad and name not in frozen
        }
        self.fixed = values

    def like_trained(self, arrays: Sequence[Arrays]) -> list[Tensor]:
        """Arrays of each client, stacked and laid out as the parameters that are trained."""
        return [
            self._own(name, torch.from_numpy(np.stack([mine[name] for mine in arrays])))
            for name in self.trained
        ]

    def write(self, out: Mapping[str, "np.ndarray[Any, Any]"]) -> None:
        """Copy the values into arrays (K, ...), named as what travels."""
        for name, own in self.names.items():
            value = self.trained[own] if own in self.trained else self.fixed[own]  # type: ignore[index]
            np.copyto(out[name], (value.mT if own in self._turned else value).detach().numpy())

    def _own(self, name: str, value: Tensor) -> Tensor:
        return (value.mT if name in self._turned else value).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def _loaded(model: nn.Module, named: Mapping[str, Tensor], start: Arrays) -> dict[str, Tensor]:
        load_arrays(model, start)
        return {name: value.detach().clone() for name, value in named.items()}
