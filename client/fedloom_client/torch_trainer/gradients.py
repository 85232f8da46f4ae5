"""Gradient norms, and the layer where gradients vanish or explode."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

EXPLODED = 1e3
"""Norm of a layer's gradient relative to its weights' from which it counts as exploding."""
VANISHED = 1e-7
"""The same, below which it counts as vanishing."""
_LOOK_EVERY = 16
_TINY = 1e-12


@dataclass
class GradientHealth:
    """Norms over a round. Layers are looked at on every 16th step: the norms of all cost a step's time.

    Attributes:
        parameters: name -> parameter, those that are trained.
    """

    parameters: Mapping[str, nn.Parameter]
    steps: int = 0
    total: float = 0.0
    largest: float = 0.0
    ratios: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def look(self) -> float:
        """Take in the gradients of a step, before clipping; returns their global L2 norm."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if self.steps % _LOOK_EVERY == 0:
            self._look_at_layers(norms)
        self.steps += 1
        self.total += norm
        self.largest = max(self.largest, norm)
        return norm

    @property
    def mean(self) -> float:
        """Mean norm over the steps so far."""
        return self.total / max(self.steps, 1)

    def first_not_finite(self) -> str:
        """The first layer whose gradient is not finite; empty if all are."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return name
        return ""

    def warnings(self) -> tuple[str, ...]:
        """Sentences that name the layers at both ends of the trouble, at most one of a kind."""
        typical = {name: sum(values) / len(values) for name, values in self.ratios.items()}
        if not typical:
            return ()
        low, high = min(typical, key=typical.__getitem__), max(typical, key=typical.__getitem__)
        found: list[str] = []
        if not typical[high] <= EXPLODED:
            found.append(
                f"gradients explode in layer {high} (norm {typical[high]:.3g} of its weights'); "
                "lower training.lr or set training.clip_norm"
            )
        # Where every layer's gradient is tiny the model has converged; one layer alone is starved.
        if typical[low] < VANISHED and typical[high] > 1e3 * max(typical[low], _TINY):
            found.append(
                f"gradients vanish in layer {low} (norm {typical[low]:.3g} of its weights'); "
                "use normalisation, residual connections or another activation"
            )
        return tuple(found)

    def _look_at_layers(self, norms: tuple[Tensor, ...] | list[Tensor]) -> None:
        named = [(name, p) for name, p in self.parameters.items() if p.grad is not None]
        weights = torch._foreach_norm([p.detach() for _, p in named])
        for (name, parameter), gradient, weight in zip(named, norms, weights, strict=True):
            # A bias or a scale may be zero or few; only a layer's weights tell about its gradients.
            if parameter.ndim < 2:
                continue
            ratio = float(gradient) / max(float(weight), _TINY)
            self.ratios.setdefault(name, []).append(ratio if math.isfinite(ratio) else math.inf)
