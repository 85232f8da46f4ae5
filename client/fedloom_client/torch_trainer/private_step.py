"""DP-SGD, a step that hides every single example (Abadi et al., 2016, "Deep learning with differential
privacy", algorithm 1): each example's gradient is clipped, their sum gets noise, coins draw the batches.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedloom_client.data.samples import Indices
from fedloom_client.noise import Noise
from fedloom_client.torch_trainer.losses import LossFunction
from fedloom_client.torch_trainer.step import Step
from fedloom_client.trainer import Assignment

_HELD = 16_000_000  # elements of single gradients that are in memory at once
Gradients = dict[str, Tensor]


class PrivateStep(Step):
    """A step of DP-SGD; what follows the noise (proximal term, optimiser) is the plain step's.

    An example is in a batch with probability batch_size / examples, by a coin of its own (Poisson sampling),
    and the noisy sum is divided by the number of examples that batches have on average: so one example
    changes the sum by `dp_clip` at most, whichever others are there.
    """

    def __init__(
        self, model: nn.Module, loss_function: LossFunction, assignment: Assignment, examples: int
    ) -> None:
        super().__init__(model, loss_function, assignment, examples)
        self.source = Noise(None if assignment.secret else assignment.seed)
        self.expected = min(self.training.batch_size, examples)
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.one_by_one = False
        size = sum(p.numel() for p in self.parameters)
        self.at_once = max(_HELD // size, 1)

    def batches(self, order: np.random.Generator) -> list[Indices]:
        """An epoch's batches: as many as there would be of equal size, any of them may be empty."""
        rate = self.expected / self.examples
        count = -(-self.examples // self.training.batch_size)
        return [np.flatnonzero(self.source.uniform(self.examples) < rate) for _ in range(count)]

    def warnings(self) -> tuple[str, ...]:
        """None: gradients are mostly noise."""
        return ()

    def _backward(self, x: Tensor, y: Tensor) -> float:
        """Give every parameter its noisy gradient; returns the mean loss, 0 of no example."""
        total = {name: torch.zeros_like(p) for name, p in zip(self.names, self.parameters, strict=True)}
        losses = 0.0
        for start in range(0, len(x), self.at_once):
            part = slice(start, start + self.at_once)
            gradients, values = self._per_example(x[part], y[part])
            losses += float(values.sum())
            for name, gradient in clipped_sum(gradients, self.training.dp_clip).items():
                total[name] += gradient
        deviation = self.training.dp_noise * self.training.dp_clip
        for p, gradient in zip(self.parameters, total.values(), strict=True):
            noise = torch.from_numpy(self.source.normal(tuple(p.shape), deviation))
            p.grad = ((gradient + noise) / self.expected).to(p.dtype)
        return losses / max(len(x), 1)

    def _per_example(self, x: Tensor, y: Tensor) -> tuple[Gradients, Tensor]:
        if not self.one_by_one:
            try:
                return per_example_gradients(self.model, self.loss_function, self.names, x, y)
            except (RuntimeError, NotImplementedError):  # a layer that vmap cannot run, as GRU
                self.one_by_one = True
        return gradients_one_by_one(self.model, self.loss_function, self.names, x, y)


def per_example_gradients(
    model: nn.Module, loss_function: LossFunction, names: list[str], x: Tensor, y: Tensor
) -> tuple[Gradients, Tensor]:
    """Gradients of each example's loss by name, (B, ...) each, and the losses (B,).

    Args:
        model: whose parameters stay as they are.
        loss_function: (outputs, targets) -> mean over the batch.
        names: of the parameters wanted.
        x: inputs (B, ...).
        y: targets (B, ...).
    """
    everything = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    wanted = {name: everything[name] for name in names}

    def loss(own: Gradients, one: Tensor, target: Tensor) -> Tensor:
        outputs = functional_call(model, {**everything, **own}, (one.unsqueeze(0),))
        return loss_function(outputs, target.unsqueeze(0))

    found: Any = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")(wanted, x, y)
    return found[0], found[1]


def gradients_one_by_one(
    model: nn.Module, loss_function: LossFunction, names: list[str], x: Tensor, y: Tensor
) -> tuple[Gradients, Tensor]:
    """What `per_example_gradients` gives, by a backward pass an example."""
    parameters = dict(model.named_parameters())
    rows: list[tuple[Tensor, ...]] = []
    losses: list[Tensor] = []
    for one, target in zip(x, y, strict=True):
        loss = loss_function(model(one.unsqueeze(0)), target.unsqueeze(0))
        rows.append(torch.autograd.grad(loss, [parameters[name] for name in names], materialize_grads=True))
        losses.append(loss.detach())
    stacked = {name: torch.stack(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
    return stacked, torch.stack(losses)


def clipped_sum(gradients: Gradients, bound: float) -> Gradients:
    """The sum over examples of their gradients (B, ...), each scaled down to a global L2 norm of `bound`."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)  # (B,)
    factors = (bound / squares.sqrt().clamp(min=1e-30)).clamp(max=1.0)
    return {name: torch.tensordot(factors, g, 1) for name, g in gradients.items()}
