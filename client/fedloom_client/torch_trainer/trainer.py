"""TorchTrainer: local backpropagation with PyTorch."""

import copy
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client.data.samples import Samples, Shard
from fedloom_client.task import Task
from fedloom_client.torch_trainer.isolation import reproducible
from fedloom_client.torch_trainer.loop import train
from fedloom_client.torch_trainer.losses import LOSSES
from fedloom_client.torch_trainer.state import load_arrays, read_arrays, statistics
from fedloom_client.torch_trainer.tensors import Fetch, TensorCache, input_tensor
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError, TrainingError
from fedloom_edge.measures import standard_metric, target_type

_EVALUATION_BATCH = 256
_ANY_SEED = 0  # for what must not differ between processes, whatever its value


class TorchTrainer:
    """Fits arrays on a shard with PyTorch; what travels is said in `state`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._loss = LOSSES[task.loss]
        self._tensors = TensorCache(target_type(task.loss))
        self._template = self._made(_ANY_SEED)
        self._plain = all(_is_plain(module) for module in self._template.modules())
        self._spare: nn.Module | None = None
        self._trainee: nn.Module | None = None

    @property
    def statistics(self) -> frozenset[str]:
        """Arrays that are measured and not trained: batch norm's running mean and variance."""
        return statistics(self._template)

    def initial_arrays(self, seed: int) -> Arrays:
        """Arrays of a fresh model whose initialisation is drawn from `seed`."""
        return read_arrays(self._made(seed))

    def module(self, arrays: Arrays) -> nn.Module:
        """A model of its own with `arrays` in it.

        Raises:
            TrainingError: names, shapes or dtypes are not the model's.
        """
        try:
            # A copy of one that nobody runs: whatever a model keeps in itself, no call sees another's.
            model = copy.deepcopy(self._template)
        except RuntimeError:  # it holds a computed tensor, as torch's old weight_norm does
            model = self._made(_ANY_SEED)
        load_arrays(model, arrays)
        return model

    def shared(self, arrays: Arrays) -> nn.Module:
        """A model with `arrays` in it, which the next call may overwrite: not to be trained in place.

        It is made once where all of its layers are plain: a copy takes longer than a small model's step.

        Raises:
            TrainingError: names, shapes or dtypes are not the model's.
        """
        if not self._plain:
            return self.module(arrays)
        if self._spare is None:
            self._spare = copy.deepcopy(self._template)
        load_arrays(self._spare, arrays)
        return self._spare

    def fit(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """Train from `arrays` on `shard.train`; equal arguments give equal results, bit for bit.

        Raises:
            TrainingError: the loss or a gradient is not finite, the arrays do not fit the model, or
                there is no example.
        """
        count = len(shard.train)
        if count == 0:
            raise TrainingError("the shard has no training example; use fewer clients or another partition")
        self.check_private(assignment.training)
        model = self._for_training(arrays, assignment.frozen)
        validate = (lambda: self._loss_on(model, shard.validation)) if len(shard.validation) else None
        with reproducible(assignment.seed):
            update = train(model, self._loss, count, self._tensors.fetch(shard.train), assignment, validate)
        model.zero_grad()  # frees the gradients of a model that is kept
        if assignment.training.dp_noise:
            for name in self.statistics:
                if not np.array_equal(update.arrays[name], arrays[name]):
                    raise TrainingError(f"training.dp_noise: the model changes {name}, which gets no noise")
        return update

    def check_private(self, training: Training) -> None:
        """Refuse DP-SGD where examples of a batch are not independent of each other.

        Raises:
            InputError: the model has batch norm.
        """
        kinds: Any = torch.nn.modules.batchnorm._NormBase
        for name, module in self._template.named_modules() if training.dp_noise else ():
            if isinstance(module, kinds) and module.track_running_stats:
                raise InputError(
                    f"training.dp_noise: layer {name} ({type(module).__name__}) mixes the examples of a "
                    "batch, so that none's share can be bounded; use GroupNorm or LayerNorm"
                )

    def evaluate(self, arrays: Arrays, samples: Samples) -> Evaluation:
        """Loss and metrics of `arrays` on `samples`; zeros where there is no sample."""
        names = [self.task.metric, *self.task.metrics]
        if len(samples) == 0:
            return Evaluation(0.0, dict.fromkeys(names, 0.0), 0)
        with reproducible(_ANY_SEED):
            outputs, targets = self._predict(self.shared(arrays), samples)
            loss = float(self._loss(outputs, targets))
        pair = outputs.numpy(), targets.numpy()
        metrics = {self.task.metric: standard_metric(self.task.loss, *pair)}
        metrics |= {name: float(metric(*pair)) for name, metric in self.task.metrics.items()}
        return Evaluation(loss, metrics, len(samples))

    def tensors(self, samples: Samples) -> Fetch:
        """Batches of `samples` by index as tensors, kept in memory where they fit."""
        return self._tensors.fetch(samples)

    def outputs(self, arrays: Arrays, x: NDArray[Any]) -> NDArray[Any]:
        """The model's outputs (N, ...) on ready inputs (N, ...)."""
        with reproducible(_ANY_SEED), torch.no_grad():
            model = self.module(arrays).eval()
            parts = np.split(x, range(_EVALUATION_BATCH, len(x), _EVALUATION_BATCH))
            outputs: NDArray[Any] = torch.cat([model(input_tensor(part)) for part in parts]).numpy()
            return outputs

    def _for_training(self, arrays: Arrays, frozen: Collection[str]) -> nn.Module:
        """A model with `arrays` in it, and some parameters fixed; a plain one is used again and again."""
        if self._plain:
            model = self._trainee = self._trainee or copy.deepcopy(self._template)
            load_arrays(model, arrays)
        else:
            model = self.module(arrays)
        template = dict(self._template.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(template[name].requires_grad and name not in frozen)
        return model

    def _loss_on(self, model: nn.Module, samples: Samples) -> float:
        return float(self._loss(*self._predict(model, samples)))

    @torch.no_grad()
    def _predict(self, model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
        """Outputs (N, ...) and targets (N, ...), with dropout off and batch norm's running statistics."""
        model.eval()
        outputs, targets = [], []
        for x, y in self._tensors.in_order(samples, _EVALUATION_BATCH):  # (B, ...), (B, ...)
            outputs.append(model(x if self._plain else x.clone()))
            targets.append(y)
        return torch.cat(outputs), torch.cat(targets)

    def _made(self, seed: int) -> nn.Module:
        with reproducible(seed):
            return self.task.model()


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer is one of PyTorch's own that keeps nothing and writes into nothing but its arrays."""
    kept = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    own = type(module).__module__.startswith("torch.nn.modules.")
    counts = getattr(module, "momentum", 0.0) is None  # batch norm that averages over all batches so far
    return own and not any(kept) and not counts and not getattr(module, "inplace", False)
