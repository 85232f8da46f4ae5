"""A torch model's gradient norms; what they mean is said in `gradient_health`."""

import math

import torch
from torch import Tensor, nn

from fedloom_client.gradient_health import GradientHealth, relative


class ModelHealth(GradientHealth):
    """`GradientHealth` of a model, whose trainable parameters are watched."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._judged = judged_layers(model)
        super().__init__(list(self._judged))

    def take(self) -> float:
        """Take in the gradients of a step; returns their global L2 norm."""
        norm = math.hypot(*(_norm(p.grad) for p in self._parameters))
        self.look(norm, self._ratios)
        return norm

    def _ratios(self) -> dict[str, float]:
        return {n: relative(_norm(p.grad), _norm(p.detach()), p.numel()) for n, p in self._judged.items()}


def judged_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weight matrices by name.

    Biases and scales are not judged: before a normalisation their gradient is truly zero; nor look-up
    tables: a batch touches few of their rows.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return {name: p for name, p in trained if p.ndim > 1 and id(p) not in tables}


def _norm(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else float(torch.linalg.vector_norm(tensor))
