"""Before round 1: does the model fit the data? Everything that a user can get wrong, in one line."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fedloom_client.data.samples import Data, Samples, View
from fedloom_client.loading import users_code
from fedloom_client.task import Task
from fedloom_client.torch_trainer.data_checks import FEW, Prepare, check_targets, check_values
from fedloom_client.torch_trainer.isolation import reproducible
from fedloom_client.torch_trainer.loop import to_training_mode
from fedloom_client.torch_trainer.losses import LOSSES
from fedloom_client.torch_trainer.tensors import input_tensor
from fedloom_edge.errors import InputError
from fedloom_edge.measures import target_type

_SOME = 512  # samples that preprocessing constants are fitted on here
_FLOATS = (torch.float16, torch.float32, torch.float64)


def check_task(task: Task, data: Data) -> None:
    """Check a task's data, and try its model on a few samples: a training step and an evaluation.

    Raises:
        InputError: the model factory, the model or a metric fails, or outputs do not fit the targets.
        DataError: an input or a target is not finite, out of range, or of a wrong dtype.
    """
    prepare = _preparation(task, data)
    with reproducible(0):
        model = _model(task)
        for part, samples in (("train", data.train), ("test", data.test)):
            check_values(task, part, samples, prepare)
            _try(task, model, part, samples, prepare)


def _preparation(task: Task, data: Data) -> Prepare:
    preprocess = task.preprocess
    if preprocess is None:
        return lambda x: x
    some = View(data.train, np.arange(min(_SOME, len(data.train))))
    with users_code(f"task {task.name}: its preprocess"):
        constants = preprocess.merge([preprocess.summarise(some)])

    def prepare(x: NDArray[Any]) -> NDArray[Any]:
        with users_code(f"task {task.name}: its preprocess"):
            return preprocess.apply(x, constants)

    return prepare


def _model(task: Task) -> nn.Module:
    with users_code(f"task {task.name}: its model"):
        model = task.model()
    made: object = model  # a user's factory may return anything
    if not isinstance(made, nn.Module):
        raise InputError(f"task {task.name}: model() gave {type(made).__name__}; return a torch.nn.Module")
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise InputError(f"task {task.name}: {name} of the model has no shape yet; use no lazy layers")
        if (value.is_floating_point() or value.is_complex()) and value.dtype not in _FLOATS:
            raise InputError(f"task {task.name}: {name} of the model is {value.dtype}; make it torch.float32")
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(f"task {task.name}: the model has no trainable parameter")
    return model


def _try(task: Task, model: nn.Module, part: str, samples: Samples, prepare: Prepare) -> None:
    """A training step without its update on `train`, an evaluation on `test`."""
    raw, targets = samples.take(np.arange(min(FEW, len(samples))))
    x = input_tensor(prepare(raw))
    if part == "train":
        to_training_mode(model, alone=len(x) == 1)
    else:
        model.eval()
    outputs = _outputs(task, model, x)
    _check_shapes(task, outputs, targets)
    check_targets(task, part, samples, tuple(outputs.shape))
    y = torch.from_numpy(np.array(targets, target_type(task.loss)))
    loss = LOSSES[task.loss](outputs, y)
    if not loss.requires_grad:
        raise InputError(
            f"task {task.name}: the model's outputs depend on no trainable parameter; "
            "is there a detach() or no_grad() in forward?"
        )
    if part == "train":
        with users_code(f"task {task.name}: the backward pass of its model"):
            loss.backward()  # type: ignore[no-untyped-call]
    for name, metric in task.metrics.items():
        with users_code(f"task {task.name}: its metric {name}"):
            float(metric(outputs.detach().numpy(), y.numpy()))


def _outputs(task: Task, model: nn.Module, x: Tensor) -> Tensor:
    try:
        with users_code(f"task {task.name}: its model, given {tuple(x.shape)}"):
            outputs: object = model(x)
    except InputError as error:
        hint = "; whole numbers reach a model as int64: give measurements as float32"
        line = " ".join(str(error).split())  # torch's messages may have several lines
        raise InputError(line + (hint if x.dtype == torch.int64 else "")) from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"task {task.name}: the model gives {type(outputs).__name__}; return one tensor")
    return outputs


def _check_shapes(task: Task, outputs: Tensor, targets: NDArray[Any]) -> None:
    shapes = f"task {task.name}: the model gives {tuple(outputs.shape)} for targets {targets.shape}"
    fits = outputs.ndim > 0 and len(outputs) == len(targets)
    if task.loss == "cross_entropy":
        if not (fits and outputs.ndim == 2 and targets.ndim == 1):
            raise InputError(f"{shapes}; cross_entropy needs outputs (B, classes) and targets (B,)")
    elif not (fits and outputs.numel() == targets.size):
        raise InputError(f"{shapes}; {task.loss} needs one output for each target")
