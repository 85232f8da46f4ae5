"""One round of K clients as one computation: `torch_trainer.loop.train`, stacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedloom_client.data.samples import Indices
from fedloom_client.torch_trainer.loop import to_training_mode
from fedloom_client.trainer import Assignment
from fedloom_edge.arrays import Arrays
from fedloom_simulations.engine.vectorised.chain import Chain
from fedloom_simulations.engine.vectorised.health import StackedHealth
from fedloom_simulations.engine.vectorised.lifting import Generators, Stack
from fedloom_simulations.engine.vectorised.losses import LOSSES
from fedloom_simulations.engine.vectorised.mode import StackedMode
from fedloom_simulations.engine.vectorised.optimisers import make_update
from fedloom_simulations.engine.vectorised.schedule import Course, courses
from fedloom_simulations.engine.vectorised.stacking import Stacked

Rows = Callable[[Indices], tuple[Tensor, Tensor]]
"""Indices (N,) of examples -> their inputs (N, ...) and targets (N, ...)."""


@dataclass(frozen=True)
class Pupil:
    """A client that is to train.

    Attributes:
        examples: indices of its training part among all examples.
        assignment: those that train together differ in `seed`, `training.steps`, `anchor` and `offset` only.
    """

    examples: Indices
    assignment: Assignment


@dataclass
class Outcome:
    """What became of K clients, in the order in which they were given.

    Attributes:
        metrics: of each, named as `Update.metrics`.
        warnings: of each.
        failed: those whose loss or gradient was not finite; nothing of theirs counts.
    """

    metrics: list[dict[str, float]]
    warnings: list[tuple[str, ...]]
    failed: set[int] = field(default_factory=set[int])


def fit_stacked(
    model: nn.Module,
    loss: str,
    rows: Rows,
    pupils: Sequence[Pupil],
    starts: Sequence[Arrays],
    out: dict[str, NDArray[Any]],
) -> Outcome:
    """Train K pupils from `starts` (one for all, or one each) and write their arrays (K, ...) to `out`.

    Pupils are in descending order of their steps, as `schedule.chunks` gives them.

    Raises:
        NotVectorisable, RuntimeError: the model cannot be stacked.
    """
    jobs = [pupil.assignment for pupil in pupils]
    to_training_mode(model, alone=min(len(pupils[0].examples), jobs[0].training.batch_size) == 1)
    chain = Chain.of(model)
    turned = chain.turned if chain else frozenset[str]()
    state = Stacked(model, starts, len(pupils), turned, jobs[0].frozen)
    ways = courses([len(pupil.examples) for pupil in pupils], jobs)
    steps = _Steps(model, chain, loss, state, jobs)
    for step in range(len(ways[0].batches)):
        batches = [
            pupil.examples[way.batches[step]]
            for pupil, way in zip(pupils, ways, strict=True)
            if len(way.batches) > step
        ]
        steps.take(rows, batches)
    state.write(out)
    return steps.outcome(ways)


class _Steps:
    """Takes the steps of a round, for the first clients as long as they have any."""

    def __init__(
        self,
        model: nn.Module,
        chain: Chain | None,
        loss: str,
        state: Stacked,
        jobs: Sequence[Assignment],
    ) -> None:
        clients, one = len(jobs), jobs[0]
        self.model, self.chain, self.loss_of = model, chain, LOSSES[loss]
        self.state, self.training, self.mu = state, one.training, one.proximal_mu
        self.generators = Generators([job.seed for job in jobs])
        self.names = list(state.trained)
        self.start: list[Tensor] = []
        if self.mu and one.anchor:
            self.start = state.like_trained([job.anchor for job in jobs])
        elif self.mu:
            self.start = [p.detach().clone() for p in state.trained.values()]
        self.offset = state.like_trained([job.offset for job in jobs]) if one.offset else []
        self.health = StackedHealth(model, self.names, clients)
        self.loss_sum, self.seen = np.zeros(clients), np.zeros(clients, np.int64)
        self.finite = np.ones(clients, np.bool_)
        self.update: Any = None
        self.used: list[int] = []
        self.active = 0

    def take(self, rows: Rows, batches: list[Indices]) -> None:
        """One step of the first clients, whose examples are `batches`, (b,) each."""
        sizes = [len(batch) for batch in batches]
        table, weights = _padded(batches, sizes)
        x, y = rows(table.ravel())
        x, y = (part.view(*table.shape, *part.shape[1:]) for part in (x, y))  # (A, B, ...)
        losses, gradients = self._gradients(x, y, weights, sizes)
        parameters = self.trained
        for g, p, start in zip(gradients, parameters, self.start, strict=False):  # no start: no such term
            g.add_(p.detach() - start[: self.active], alpha=self.mu)
        for g, offset in zip(gradients, self.offset, strict=False):
            g.add_(offset[: self.active])
        norms = self.health.look(parameters, gradients)
        values = losses.detach().double().numpy()
        self.finite[: self.active] &= np.isfinite(norms) & np.isfinite(values)
        self.loss_sum[: self.active] += values * sizes
        self.seen[: self.active] += sizes
        self._clip(gradients, norms)
        with torch.no_grad():
            self.update([parameters[i].detach() for i in self.used], [gradients[i] for i in self.used])

    def outcome(self, courses: Sequence[Course]) -> Outcome:
        """Metrics and warnings of all clients."""
        health = self.health
        with np.errstate(all="ignore"):
            losses = self.loss_sum / self.seen
        columns = (losses, health.mean, health.largest, health.steps.astype(np.float64))
        names = ("train-loss", "gradient-norm", "gradient-norm-max", "steps", "epochs")
        rows = zip(*(column.tolist() for column in columns), courses, strict=True)
        metrics = [dict(zip(names, (*row, float(way.epochs)), strict=True)) for *row, way in rows]
        failed = {int(k) for k in np.flatnonzero(~self.finite)}
        return Outcome(metrics, health.warnings(), failed)

    def _gradients(
        self, x: Tensor, y: Tensor, weights: Tensor, sizes: list[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (A,), and gradients (A, ...) of every trained parameter."""
        if self.active != len(sizes):
            self.active = len(sizes)
            self.trained = [p.detach()[: self.active].requires_grad_() for p in self.state.trained.values()]
            self.fixed = {name: value[: self.active] for name, value in self.state.fixed.items()}
        losses = self._losses(x, y, weights, Stack(sizes, self.generators))
        found = torch.autograd.grad(losses.sum(), self.trained, allow_unused=True)
        if self.update is None:
            self.used = [i for i, g in enumerate(found) if g is not None]
            self.update = make_update([self.trained[i] for i in self.used], self.training)
        # The fused optimisers take for granted that a gradient lies in memory as its parameter does.
        return losses, [
            torch.zeros_like(p) if g is None else g.contiguous()
            for g, p in zip(found, self.trained, strict=True)
        ]

    def _losses(self, x: Tensor, y: Tensor, weights: Tensor, stack: Stack) -> Tensor:
        """Losses (A,) of inputs (A, B, ...) and targets (A, B, ...)."""
        named = dict(zip(self.names, self.trained, strict=True))
        if self.chain is not None:
            outputs = self.chain({**named, **self.fixed}, x, stack)
            each = self.loss_of(outputs.flatten(0, 1), y.flatten(0, 1))
            return (each.view_as(weights) * weights).sum(1)

        def one(parameters: Any, buffers: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
            outputs = functional_call(self.model, (parameters, buffers), (x,))
            return (self.loss_of(outputs, y) * weight).sum()

        with StackedMode(stack):
            losses: Tensor = vmap(one)(named, self.fixed, x, y, weights)
        return losses

    def _clip(self, gradients: list[Tensor], norms: NDArray[np.float64]) -> None:
        """As `torch_trainer.clipping.clip`, for each client."""
        value, bound = self.training.clip_value, self.training.clip_norm
        if value:
            for gradient in gradients:
                gradient.clamp_(-value, value)
        if not bound:
            return
        large = norms > bound
        if value and large.any():
            squares = [g.flatten(1).square().sum(1) for g in gradients]
            norms = torch.stack(squares).sum(0).sqrt().double().numpy()
        if large.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                factors = np.where(large, np.minimum(bound / norms, 1.0), 1.0)
            scale = torch.from_numpy(factors.astype(np.float32))
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))


def _padded(batches: list[Indices], sizes: list[int]) -> tuple[Indices, Tensor]:
    """Indices (A, B), short batches filled up with their first example, and its weight in a mean (A, B)."""
    longest = max(sizes)
    if min(sizes) == longest:
        return np.stack(batches), torch.full((len(sizes), longest), 1 / longest)
    table = np.empty((len(sizes), longest), np.int64)
    weights = np.zeros((len(sizes), longest), np.float32)
    for k, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
        table[k, :size], table[k, size:] = batch, batch[0]
        weights[k, :size] = 1 / size
    return table, torch.from_numpy(weights)
