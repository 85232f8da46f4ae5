"""OnnxTrainer: TorchTrainer's face and results, by train-step graphs on stock onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.batches import cut
from fedloom_client.data.samples import Indices, Samples, Shard
from fedloom_client.early_stopping import Best
from fedloom_client.gradient_health import GradientHealth, relative
from fedloom_client.onnx_trainer.graphs import Graphs
from fedloom_client.seeds import derive_seed, generator
from fedloom_client.task import Metric
from fedloom_client.trainer import Assignment, Evaluation, Terms, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import DataError, InputError, TrainingError
from fedloom_edge.measures import mean_loss, standard_metric, target_type
from fedloom_edge.step_settings import Loss, StepSettings
from fedloom_edge.train_step import TrainStep

_EVALUATION_BATCH = 256


class OnnxTrainer:
    """Fits arrays on a shard with onnxruntime; nothing of it needs torch or onnx once graphs are there.

    Against TorchTrainer: the same batches in the same order and the same arithmetic, so equal results but
    for rounding; dropout draws other masks.

    Args:
        graphs: train steps and evaluation.
        loss: the task's.
        metrics: the task's own.
    """

    def __init__(self, graphs: Graphs, loss: Loss, metrics: Mapping[str, Metric] | None = None) -> None:
        self._graphs, self._loss, self._metrics = graphs, loss, dict(metrics or {})

    @property
    def statistics(self) -> frozenset[str]:
        """Names of the arrays that are measured and not trained."""
        return self._graphs.statistics

    def initial_arrays(self, seed: int) -> Arrays:
        """Arrays of a fresh model whose initialisation is drawn from `seed`."""
        return self._graphs.initial_arrays(seed)

    def fit(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """Train from `arrays` on `shard.train`; equal arguments give equal results, bit for bit.

        Raises:
            TrainingError: the loss or a gradient is not finite, the arrays do not fit the model, or
                there is no example.
        """
        count, training = len(shard.train), assignment.training
        if count == 0:
            raise TrainingError("the shard has no training example; use fewer clients or another partition")
        x, _ = self._take(shard.train, np.arange(1))
        size = min(count, training.batch_size)
        terms = Terms(proximal=assignment.proximal_mu > 0, offset=bool(assignment.offset))
        settings = step_settings(self._loss, training, terms, alone=size == 1)
        step = self._graphs.step(settings, arrays, x, size, assignment.frozen)
        step.set_arrays(arrays, anchor=assignment.anchor, offsets=assignment.offset)

        def read() -> Arrays:
            now = step.arrays()
            own = ((name, self._graphs.tied.get(name, name)) for name in arrays)
            return {name: now[first] if first in now else np.array(arrays[name]) for name, first in own}

        def validate() -> float:
            return mean_loss(self._loss, *self._predict(read(), shard.validation))

        judged = self._graphs.judged
        return _train(
            step, judged, shard, assignment, self._take, read, validate if len(shard.validation) else None
        )

    def evaluate(self, arrays: Arrays, samples: Samples) -> Evaluation:
        """Loss and metrics of `arrays` on `samples`; zeros where there is no sample."""
        standard = "accuracy" if self._loss.endswith("cross_entropy") else "mae"
        if len(samples) == 0:
            return Evaluation(0.0, dict.fromkeys([standard, *self._metrics], 0.0), 0)
        outputs, targets = self._predict(arrays, samples)
        metrics = {standard: standard_metric(self._loss, outputs, targets)}
        metrics |= {name: float(metric(outputs, targets)) for name, metric in self._metrics.items()}
        return Evaluation(mean_loss(self._loss, outputs, targets), metrics, len(samples))

    def outputs(self, arrays: Arrays, x: NDArray[Any]) -> NDArray[Any]:
        """The model's outputs (N, ...) on ready inputs (N, ...)."""
        evaluator = self._graphs.evaluator(ready(x[:1]))
        parts = np.split(x, range(_EVALUATION_BATCH, len(x), _EVALUATION_BATCH))
        return np.concatenate([evaluator(arrays, ready(part)) for part in parts])

    def _predict(self, arrays: Arrays, samples: Samples) -> tuple[NDArray[Any], NDArray[Any]]:
        outputs, targets = [], []
        order = np.arange(len(samples))
        for batch in np.split(order, range(_EVALUATION_BATCH, len(order), _EVALUATION_BATCH)):
            x, y = self._take(samples, batch)
            outputs.append(self.outputs(arrays, x))
            targets.append(y)
        return np.concatenate(outputs), np.concatenate(targets)

    def _take(self, samples: Samples, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        x, y = samples.take(indices)
        return ready(x), np.ascontiguousarray(y, target_type(self._loss))


def step_settings(loss: Loss, training: Training, terms: Terms, *, alone: bool) -> StepSettings:
    """What of `training` is fixed in a step graph; `alone`: every batch is a single example.

    Raises:
        InputError: the training is private, and a step graph has no gradients of single examples.
    """
    if training.dp_noise:
        raise InputError("training.dp_noise needs torch, for the gradients of single examples")
    return StepSettings(
        loss=loss,
        optimizer=training.optimizer,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        clip_value=training.clip_value,
        clip_norm=training.clip_norm,
        proximal=terms.proximal,
        offset=terms.offset,
        batch_statistics=not alone,
    )


def _train(
    step: TrainStep,
    judged: Sequence[str],
    shard: Shard,
    assignment: Assignment,
    take: Callable[[Samples, Indices], tuple[NDArray[Any], NDArray[Any]]],
    read: Callable[[], Arrays],
    validate: Callable[[], float] | None,
) -> Update:
    """The loop of one round, as TorchTrainer's: it ends at `epochs`, `steps` or `patience`."""
    training, examples = assignment.training, len(shard.train)
    best, order = Best(training.patience), generator(assignment.seed, "order")
    seed = derive_seed(assignment.seed, "dropout")
    layers = [name for name in judged if name in step.signature.parameters]
    health = GradientHealth(layers)
    loss_sum, seen, epoch, over, cut_short = 0.0, 0, 0, False, False
    while not over:
        epoch += 1
        epoch_sum, epoch_seen = 0.0, 0
        batches = cut(order.permutation(examples), training.batch_size)
        if training.steps:
            batches = batches[: training.steps - health.steps]
        for batch in batches:
            x, y = take(shard.train, batch)  # (B, ...), (B, ...)
            loss, norm = step(x, y, lr=training.lr, seed=seed, mu=assignment.proximal_mu)
            health.look(norm, lambda: _ratios(step, layers))
            epoch_sum, epoch_seen = epoch_sum + loss * len(batch), epoch_seen + len(batch)
            if assignment.enough is not None and assignment.enough():
                cut_short = True
                break
        loss_sum, seen = loss_sum + epoch_sum, seen + epoch_seen
        if assignment.progress is not None:
            assignment.progress(epoch, epoch_sum / epoch_seen)
        over = epoch == training.epochs or health.steps == training.steps or cut_short
        if not cut_short and training.patience and validate is not None:
            best.note(validate(), read)
            over = over or best.over
    metrics = {
        "train-loss": loss_sum / seen,
        "gradient-norm": health.mean,
        "gradient-norm-max": health.largest,
        "steps": float(health.steps),
        "epochs": float(epoch),
    }
    counted = min(examples, seen) if cut_short else examples
    return Update(best.arrays or read(), counted, metrics, health.warnings())


def _ratios(step: TrainStep, layers: Sequence[str]) -> dict[str, float]:
    """Each layer's gradient in the last step, relative to its weights."""
    norms = dict(zip(step.signature.parameters, step.norms.tolist(), strict=False))  # none told: none
    return {
        name: relative(norms[name], float(np.linalg.norm(step.before(name))), step.before(name).size)
        for name in layers
        if name in norms
    }


def ready(x: NDArray[Any]) -> NDArray[Any]:
    """float32 of floating-point arrays, int64 of integers and booleans (token ids), contiguous.

    Raises:
        DataError: the array holds no numbers.
    """
    if x.dtype.kind not in "fiub":
        raise DataError(
            f"inputs of dtype {x.dtype} are no numbers; give the task a preprocess, e.g. Vocabulary"
        )
    return np.ascontiguousarray(x, np.float32 if x.dtype.kind == "f" else np.int64)
