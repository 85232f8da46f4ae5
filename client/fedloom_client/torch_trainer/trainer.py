"""TorchTrainer: local backpropagation in one plain loop."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client.samples import Samples, Shard
from fedloom_client.seeds import generator
from fedloom_client.task import Task
from fedloom_client.torch_trainer.gradients import GradientHealth
from fedloom_client.torch_trainer.losses import LOSSES, standard_metric, target_type
from fedloom_client.torch_trainer.optimisers import make_optimiser
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import TrainingError

_EVALUATION_BATCH = 512


class TorchTrainer:
    """Fits arrays on a shard with PyTorch.

    Arrays are the floating-point entries of the model's state, in its order. Integer buffers
    (`num_batches_tracked`) stay here: a mean of counters is no counter.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._loss = LOSSES[task.loss]
        self._model = _silently(task.model)
        # What the model has that does not travel, as it was made: no fit may leave a trace in it.
        self._local = {k: v.clone() for k, v in self._model.state_dict().items() if not _travels(v)}
        self._tensors: WeakKeyDictionary[Samples, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    @property
    def statistics(self) -> frozenset[str]:
        """Floating-point buffers: batch norm's running mean and variance."""
        return frozenset(name for name, buffer in self._model.named_buffers() if _travels(buffer))

    def initial_arrays(self, seed: int) -> Arrays:
        """Arrays of a fresh model whose initialisation is drawn from `seed`."""
        with _one_thread(), _seeded(seed):
            return _arrays(self.task.model())

    def module(self, arrays: Arrays) -> nn.Module:
        """The trainer's model with `arrays` in it; it is overwritten by the next call.

        Raises:
            TrainingError: names, shapes or dtypes are not the model's.
        """
        state = self._model.state_dict()
        expected = {name: (tuple(v.shape), v.dtype) for name, v in state.items() if _travels(v)}
        given = {name: (a.shape, torch.from_numpy(np.empty(0, a.dtype)).dtype) for name, a in arrays.items()}
        if given != expected:
            odd = sorted(name for name in {*given, *expected} if given.get(name) != expected.get(name))
            raise TrainingError(f"arrays do not fit the model of task {self.task.name}: {', '.join(odd)}")
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(input_tensor(arrays[name]) if name in arrays else self._local[name])
        for parameter in self._model.parameters():
            parameter.grad = None
        return self._model

    def fit(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """Train from `arrays` on `shard.train`; equal arguments give equal results, bit for bit.

        Raises:
            TrainingError: the loss is no longer finite, or the arrays do not fit the model.
        """
        with _one_thread(), _seeded(assignment.seed):
            return self._fit(self.module(arrays), arrays, shard, assignment)

    def _fit(self, model: nn.Module, start: Arrays, shard: Shard, assignment: Assignment) -> Update:
        training = assignment.training
        x, y = self._ready(shard.train)  # (N, ...), (N, ...)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        anchor = [p.detach().clone() for p in parameters.values()] if assignment.proximal_mu else []
        optimiser = make_optimiser(parameters.values(), training)
        health = GradientHealth(parameters)
        patience = _Patience(training.patience)
        order = generator(assignment.seed, "order")
        loss_sum, seen, epoch = 0.0, 0, 0
        for epoch in range(1, training.epochs + 1):
            model.train()
            epoch_sum, epoch_seen = 0.0, 0
            for batch in _batches(order.permutation(len(x)), training.batch_size):
                if training.steps and health.steps == training.steps:
                    break
                xb, yb = x[batch], y[batch]  # (B, ...), (B, ...)
                optimiser.zero_grad()
                loss = self._loss(model(xb), yb)
                loss.backward()  # type: ignore[no-untyped-call]
                for p, w in zip(parameters.values(), anchor, strict=False):
                    if p.grad is not None:  # gradient of mu/2 * ||w - w_global||^2
                        p.grad.add_(p.detach() - w, alpha=assignment.proximal_mu)
                norm = health.look()
                value = loss.item()
                if not (math.isfinite(value) and math.isfinite(norm)):
                    raise _not_finite(epoch, health, value)
                _clip(parameters.values(), training)
                optimiser.step()
                epoch_sum += value * len(batch)
                epoch_seen += len(batch)
            loss_sum, seen = loss_sum + epoch_sum, seen + epoch_seen
            if assignment.progress is not None:
                assignment.progress(epoch, epoch_sum / max(epoch_seen, 1))
            if training.steps and health.steps == training.steps:
                break
            if training.patience and len(shard.validation):
                patience.note(self._evaluate(model, shard.validation).loss, model)
                if patience.over:
                    break
        metrics = {
            "train-loss": loss_sum / max(seen, 1),
            "gradient-norm": health.mean,
            "gradient-norm-max": health.largest,
            "steps": float(health.steps),
            "epochs": float(epoch),
        }
        return Update(patience.best or _arrays(model), len(shard.train), metrics, health.warnings())

    def evaluate(self, arrays: Arrays, samples: Samples) -> Evaluation:
        """Loss and metrics of `arrays` on `samples`; zeros where there is no sample."""
        with _one_thread():
            return self._evaluate(self.module(arrays), samples)

    def outputs(self, arrays: Arrays, x: NDArray[Any]) -> NDArray[Any]:
        """The model's outputs (N, ...) on ready inputs (N, ...)."""
        with _one_thread():
            result: NDArray[Any] = _predict(self.module(arrays), input_tensor(x)).numpy()
            return result

    def _evaluate(self, model: nn.Module, samples: Samples) -> Evaluation:
        if len(samples) == 0:
            return Evaluation(0.0, dict.fromkeys([self.task.metric, *self.task.metrics], 0.0), 0)
        x, y = self._ready(samples)
        outputs = _predict(model, x)
        loss = float(self._loss(outputs, y))
        arrays = outputs.numpy(), y.numpy()
        metrics = {self.task.metric: standard_metric(self.task.loss, *arrays)}
        metrics |= {name: float(metric(*arrays)) for name, metric in self.task.metrics.items()}
        return Evaluation(loss, metrics, len(x))

    def _ready(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """A shard's tensors, made once: its samples do not change between rounds."""
        if samples not in self._tensors:
            x, y = samples.take(np.arange(len(samples)))
            self._tensors[samples] = input_tensor(x), torch.from_numpy(y).to(target_type(self.task.loss))
        return self._tensors[samples]


class _Patience:
    """Keeps the arrays of the epoch with the lowest validation loss."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: Arrays = {}
        self._lowest = math.inf
        self._waited = 0

    def note(self, loss: float, model: nn.Module) -> None:
        self._waited += 1
        if loss < self._lowest or not self.best:
            self._lowest, self._waited, self.best = loss, 0, _arrays(model)

    @property
    def over(self) -> bool:
        return self._waited >= self.patience


def _batches(order: NDArray[np.int64], size: int) -> Iterator[Tensor]:
    """Batches of indices; a last one of a single sample joins the one before it.

    Batch norm cannot take the variance of one sample, and a lone sample's step is mostly noise.
    """
    ends = list(range(size, len(order), size))
    if ends and len(order) - ends[-1] == 1:
        ends.pop()
    for part in np.split(order, ends):
        yield torch.from_numpy(part)


def _clip(parameters: Any, training: Training) -> None:
    if training.clip_value:
        nn.utils.clip_grad_value_(parameters, training.clip_value)
    if training.clip_norm:
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)


def _not_finite(epoch: int, health: GradientHealth, loss: float) -> TrainingError:
    layer = health.first_not_finite()
    where = f"; gradients are not finite from layer {layer}" if layer else ""
    return TrainingError(
        f"loss is {loss:g} in epoch {epoch}, step {health.steps}{where}; "
        "lower training.lr, set training.clip_norm, or check the data's scale"
    )


@torch.no_grad()
def _predict(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(x[i : i + _EVALUATION_BATCH]) for i in range(0, len(x), _EVALUATION_BATCH)])


def _travels(value: Tensor) -> bool:
    return value.is_floating_point()


def _arrays(model: nn.Module) -> Arrays:
    state = model.state_dict()
    return {name: value.detach().numpy().copy() for name, value in state.items() if _travels(value)}


def input_tensor(array: NDArray[Any]) -> Tensor:
    """float32 of floating-point arrays, int64 of integers (token ids); a copy if it is read-only."""
    kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64
    ready = np.ascontiguousarray(array, dtype=kind).reshape(array.shape)
    return torch.from_numpy(ready if ready.flags.writeable else ready.copy())


def _silently(make: Any) -> nn.Module:
    """A model made without drawing from the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = make()
        return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: the order of floating-point sums, and so the result, depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
