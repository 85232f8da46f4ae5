"""Are the values of a task's samples fit to learn from? Finite, and targets within their range."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import ArraySamples, Samples, View
from fedloom_client.loading import users_code
from fedloom_client.task import Task
from fedloom_edge.errors import DataError

FEW = 8
_CHUNK = 4096
Prepare = Callable[[NDArray[Any]], NDArray[Any]]


def check_values(task: Task, part: str, samples: Samples, prepare: Prepare) -> None:
    """Inputs, once preprocessed, and targets are finite.

    Raises:
        DataError: with the number of the first sample where they are not.
    """
    for start, x, y in _checked(task, part, samples):
        # A preprocess may fill gaps, so what it makes of a bad sample is what counts.
        bad = _first_not_finite(x)
        if bad is not None and _first_not_finite(prepare(x[bad : bad + 1])) is not None:
            raise _not_finite(task, f"the input of {part} sample {start + bad}")
        bad = _first_not_finite(y)
        if bad is not None:
            raise _not_finite(task, f"the target of {part} sample {start + bad}")


def check_targets(task: Task, part: str, samples: Samples, outputs: tuple[int, ...]) -> None:
    """Classes exist among the model's outputs (B, classes); binary targets are from 0 to 1.

    Raises:
        DataError: with the number of the first sample whose target is out of range.
    """
    if task.loss not in ("cross_entropy", "binary_cross_entropy"):
        return
    labels = samples.labels
    if labels is None and task.loss == "cross_entropy":
        y = samples.take(np.arange(1))[1]
        raise DataError(
            f"task {task.name}: cross_entropy needs integer labels (N,), but a {part} target is "
            f"{y.dtype} {y.shape[1:]}; give y as int64 (N,)"
        )
    highest = outputs[1] - 1 if task.loss == "cross_entropy" else 1
    targets = [(0, labels)] if labels is not None else [(i, y) for i, _, y in _checked(task, part, samples)]
    for start, y in targets:
        rows = y.reshape(len(y), -1)  # (N, K)
        wrong = np.flatnonzero(((rows < 0) | (rows > highest)).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"task {task.name}: the label of {part} sample {start + row} is {y[row]}, but the model "
                f"gives {outputs}: labels must be from 0 to {highest}"
            )


def _checked(task: Task, part: str, samples: Samples) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """(first index, inputs, targets) of everything in memory; of what is read when needed, the first few."""
    base = samples
    while isinstance(base, View):
        base = base.base
    count = len(samples) if isinstance(base, ArraySamples) else min(FEW, len(samples))
    for start in range(0, count, _CHUNK):
        with users_code(f"task {task.name}: its {part} samples"):
            x, y = samples.take(np.arange(start, min(start + _CHUNK, count)))
        yield start, x, y


def _first_not_finite(values: NDArray[Any]) -> int | None:
    if values.dtype.kind != "f":
        return None
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    return int(bad[0]) if len(bad) else None


def _not_finite(task: Task, what: str) -> DataError:
    return DataError(f"task {task.name}: {what} is NaN or infinite; remove or fill such samples in data()")
