"""Gradient norms of K clients at once; what they mean is said in `gradient_health`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client.gradient_health import (
    EXPLODED,
    LOOK_EVERY,
    SMALL_WEIGHT,
    SPIKE,
    VANISHED,
    sentences,
)
from fedloom_client.torch_trainer.gradients import judged_layers


class StackedHealth:
    """`GradientHealth` for each of K clients, the first A of which take a step.

    Args:
        model: one client's, for the names of its layers.
        names: of the parameters that are trained, in the order in which gradients come.
        clients: K.

    Attributes:
        steps, mean, largest: (K,) as those of `GradientHealth`.
    """

    def __init__(self, model: nn.Module, names: list[str], clients: int) -> None:
        self.steps = np.zeros(clients, np.int64)
        self.mean, self.largest = np.zeros(clients), np.zeros(clients)
        judged = judged_layers(model)
        self._layers = [name for name in names if name in judged]
        self._places = [names.index(name) for name in self._layers]
        self._roots = np.sqrt([judged[name].numel() for name in self._layers])
        self._looks = np.zeros(clients, np.int64)
        self._starved = np.zeros((clients, len(self._layers)), np.int64)
        self._exploded = np.zeros((clients, len(self._layers)))

    def look(self, parameters: list[Tensor], gradients: list[Tensor]) -> NDArray[np.float64]:
        """Take in the gradients (A, ...) of a step; returns their L2 norms (A,)."""
        norms = torch.stack([_norms(g) for g in gradients]).double()  # (tensors, A)
        total: NDArray[np.float64] = torch.linalg.vector_norm(norms, dim=0).numpy()
        active = len(total)
        looking = (self.steps[:active] % LOOK_EVERY == 0) | (total > SPIKE * self.mean[:active])
        if looking.any() and self._layers:
            self._look_at_layers(looking, total, parameters, norms.numpy())
        self.steps[:active] += 1
        self.mean[:active] += (total - self.mean[:active]) / self.steps[:active]
        self.largest[:active] = np.fmax(self.largest[:active], total)
        return total

    def warnings(self) -> list[tuple[str, ...]]:
        """Sentences about each client's round."""
        starved = 2 * self._starved > self._looks[:, None]
        said = set(np.flatnonzero(starved.any(1) | self._exploded.any(1)).tolist())
        return [self._sentences(k, starved[k]) if k in said else () for k in range(len(starved))]

    def _sentences(self, client: int, starved: NDArray[np.bool_]) -> tuple[str, ...]:
        exploded = self._exploded[client]
        worst = {name: float(ratio) for name, ratio in zip(self._layers, exploded, strict=True) if ratio}
        return sentences(worst, [name for name, weak in zip(self._layers, starved, strict=True) if weak])

    def _look_at_layers(
        self,
        looking: NDArray[np.bool_],
        total: NDArray[np.float64],
        parameters: list[Tensor],
        norms: NDArray[np.float64],
    ) -> None:
        active = len(total)
        weights = torch.stack([_norms(parameters[place]) for place in self._places]).numpy().T  # (A, layers)
        ratios = norms[self._places].T / np.maximum(weights, SMALL_WEIGHT * self._roots)
        exploded = (ratios > EXPLODED) & looking[:, None]
        self._exploded[:active] = np.where(
            exploded, np.fmax(self._exploded[:active], ratios), self._exploded[:active]
        )
        self._looks[:active] += looking
        judged = looking & (total != 0) & ~exploded.any(1)
        weak = (ratios < VANISHED * ratios.max(1, keepdims=True)) | (ratios == 0)
        self._starved[:active] += weak & judged[:, None]


def _norms(tensor: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1)
    return norms
