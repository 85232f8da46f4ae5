"""One optimiser step: forward, backward, the proximal term, the look at the gradients, clipping, update."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client.data.batches import cut
from fedloom_client.data.samples import Indices
from fedloom_client.torch_trainer.clipping import clip
from fedloom_client.torch_trainer.failure import not_finite
from fedloom_client.torch_trainer.gradients import ModelHealth
from fedloom_client.torch_trainer.losses import LossFunction
from fedloom_client.torch_trainer.optimisers import Optimiser
from fedloom_client.trainer import Assignment


class Step:
    """Takes the steps of one round on `model`, in place.

    Args:
        model: holds the arrays that the round starts from.
        loss_function: (outputs, targets) -> mean over the batch.
        assignment: settings and FedProx's coefficient.
        examples: how many there are.

    Attributes:
        health: gradient norms so far.
    """

    def __init__(
        self, model: nn.Module, loss_function: LossFunction, assignment: Assignment, examples: int
    ) -> None:
        self.examples = examples
        self.model = model
        self.loss_function = loss_function
        self.training = assignment.training
        self.mu = assignment.proximal_mu
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        anchor, offset = assignment.anchor, assignment.offset
        own = [(name, p.detach()) for name, p in named.items()] if self.mu else []
        self.start = [_tensor(anchor[name]) if anchor else p.clone() for name, p in own]
        self.offset = [_tensor(offset[name]) for name in named] if offset else []
        self.optimiser = Optimiser(self.parameters, self.training)
        self.health = ModelHealth(model)

    def batches(self, order: np.random.Generator) -> list[Indices]:
        """An epoch's batches, in the order in which steps are taken on them."""
        return cut(order.permutation(self.examples), self.training.batch_size)

    def warnings(self) -> tuple[str, ...]:
        """What the gradients say of the model, in sentences."""
        return self.health.warnings()

    def __call__(self, x: Tensor, y: Tensor, *, epoch: int) -> float:
        """Take a step on inputs (B, ...) and targets (B, ...); returns the loss before it.

        Raises:
            TrainingError: the loss or a gradient is not finite; `epoch` is for the message.
        """
        value = self._backward(x, y)
        self._pull_to_start()
        norm = self.health.take()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise not_finite(self.model, x, y, loss=value, epoch=epoch, step=self.health.steps)
        clip([p.grad for p in self.parameters if p.grad is not None], norm, self.training)
        self.optimiser.step()
        return value

    def _backward(self, x: Tensor, y: Tensor) -> float:
        """Give every parameter its gradient; returns the loss."""
        for p in self.parameters:
            p.grad = None
        loss = self.loss_function(self.model(x), y)  # ()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _pull_to_start(self) -> None:
        """Add the gradient of FedProx's mu/2 * ||w - w_start||^2, mu * (w - w_start), and the offset."""
        for p, start in zip(self.parameters, self.start, strict=False):  # no start: no proximal term
            if p.grad is not None:
                p.grad.add_(p.detach() - start, alpha=self.mu)
        for p, offset in zip(self.parameters, self.offset, strict=False):
            if p.grad is not None:
                p.grad.add_(offset)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))
