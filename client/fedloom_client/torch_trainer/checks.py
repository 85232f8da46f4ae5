"""Before round 1: does the model fit the data? Everything that a user can get wrong, in one line."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client.loading import users_code
from fedloom_client.preprocess import prepare
from fedloom_client.samples import ArraySamples, Data, Samples, View
from fedloom_client.task import Task
from fedloom_client.torch_trainer.losses import LOSSES, target_type
from fedloom_client.torch_trainer.trainer import input_tensor
from fedloom_edge.errors import DataError, InputError

_FEW = 8
_SOME = 512


def check_task(task: Task, data: Data) -> None:
    """Check a task's data and run its model on a few samples, training and evaluation.

    Raises:
        InputError: the model factory or the model fails, or its outputs do not fit the targets.
        DataError: an input or a target is not finite, out of range, or of a wrong dtype.
    """
    for part, samples in (("train", data.train), ("test", data.test)):
        _check_values(task, part, samples)
    few: Samples = View(data.train, np.arange(min(_FEW, len(data.train))))
    if task.preprocess is not None:
        with users_code(f"task {task.name}: its preprocessing"):
            some = View(data.train, np.arange(min(_SOME, len(data.train))))
            constants = task.preprocess.merge([task.preprocess.summarise(some)])
            few = prepare(few, task.preprocess, constants)
    x, y = few.take(np.arange(len(few)))
    outputs = _outputs(task, input_tensor(x))
    _check_outputs(task, outputs, torch.from_numpy(y))
    for samples in (data.train, data.test):
        _check_labels(task, samples, outputs)


def _outputs(task: Task, x: Tensor) -> Tensor:
    with users_code(f"task {task.name}: its model"), torch.random.fork_rng(devices=[]):
        model = task.model()
        if not isinstance(model, nn.Module):
            raise InputError(
                f"task {task.name}: model() gave {type(model).__name__}; return a torch.nn.Module"
            )
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError(f"task {task.name}: the model has no trainable parameter")
        with torch.no_grad():
            model.train()
            model(x)
            outputs = model.eval()(x)
    if not isinstance(outputs, Tensor):
        raise InputError(f"task {task.name}: the model gives {type(outputs).__name__}; return one tensor")
    return outputs


def _check_outputs(task: Task, outputs: Tensor, targets: Tensor) -> None:
    shapes = f"the model gives {tuple(outputs.shape)} for targets {tuple(targets.shape)}"
    if task.loss == "cross_entropy":
        if outputs.ndim != 2 or targets.ndim != 1 or len(outputs) != len(targets):
            raise InputError(
                f"task {task.name}: {shapes}; cross_entropy needs outputs (B, classes) and targets (B,)"
            )
    elif outputs.numel() != targets.numel():
        raise InputError(f"task {task.name}: {shapes}; {task.loss} needs one output for each target")
    LOSSES[task.loss](outputs, targets.to(target_type(task.loss)).clamp(0, 0))


def _check_labels(task: Task, samples: Samples, outputs: Tensor) -> None:
    """Class labels within the model's outputs, or 0 and 1."""
    if not task.loss.endswith("cross_entropy"):
        return
    labels = samples.labels
    if labels is None:
        raise DataError(f"task {task.name}: {task.loss} needs integer labels (N,); give y as int64")
    classes = outputs.shape[1] if task.loss == "cross_entropy" else 2
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            f"task {task.name}: the label of sample {index} is {labels[index]}, but the model gives "
            f"{tuple(outputs.shape)}: labels must be from 0 to {classes - 1}"
        )


def _check_values(task: Task, part: str, samples: Samples) -> None:
    """Every value in memory is finite; of samples that are read when needed, the first few."""
    base = samples.base if isinstance(samples, View) else samples
    count = len(samples) if isinstance(base, ArraySamples) else min(_FEW, len(samples))
    with users_code(f"task {task.name}: its {part} samples"):
        x, y = samples.take(np.arange(count))
    for what, values in (("input", x), ("target", y)):
        if (index := _first_not_finite(values)) is not None:
            raise DataError(
                f"task {task.name}: the {what} of {part} sample {index} is NaN or infinite; "
                "remove or fill such samples in data()"
            )


def _first_not_finite(values: NDArray[Any]) -> int | None:
    if not np.issubdtype(values.dtype, np.floating):
        return None
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    return int(bad[0]) if len(bad) else None
