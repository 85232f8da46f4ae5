"""The tasks of the conformance suite: `fedloom simulate PATH/tasks.py:NAME`."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedloom_client import ArraySamples, Data, Task, Training
from fedloom_client.sources.packaged import packaged
from fedloom_client.tasks.fashion import task as fashion
from fedloom_client.tasks.tabular import task as breast
from fedloom_simulations.conformance.splits import (
    closing_dirichlet,
    partly_sorted,
    two_classes_each,
    unequal_slices,
)

Divide = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def lenet() -> nn.Module:
    """NIID-Bench's network for 28x28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),  # (B, 6, 24, 24)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),  # (B, 16, 8, 8)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def four_layers() -> nn.Module:
    """PFLlib's CNN for 28x28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5),  # (B, 32, 24, 24)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),  # (B, 64, 8, 8)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


@cache
def _pixels(folder: Path | None) -> Data:
    return fashion.data(folder)


def _niid(folder: Path | None) -> Data:
    """Fashion-MNIST's own split; the training images among 10 clients by Dirichlet(0.5)."""
    data = _pixels(folder)
    x, y = data.train.take(np.arange(len(data.train)))
    train = ArraySamples(x, y, groups=closing_dirichlet(y, 10, 0.5, seed=0, least=10))
    return replace(data, train=train)


def _pfllib(divide: Divide) -> Callable[[Path | None], Data]:
    """All 70,000 images, in [-1, 1], among 20 clients.

    What counts is measured at the clients; the test set is there because a run has one.
    """

    def data(folder: Path | None) -> Data:
        both = _pixels(folder)
        parts = [part.take(np.arange(len(part))) for part in (both.train, both.test)]
        x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
        some = ArraySamples(2 * x[-1000:] - 1, y[-1000:])
        return replace(both, train=ArraySamples(2 * x - 1, y, groups=divide(y)), test=some)

    return data


niid = Task(
    name="niid",
    model=lenet,
    data=_niid,
    training=Training(optimizer="momentum", lr=0.01, batch_size=64, epochs=10),
    partition="natural",
    clients=10,
)
pathological = Task(
    name="pathological",
    model=four_layers,
    data=_pfllib(lambda y: two_classes_each(y, 20, seed=1)),
    training=Training(optimizer="sgd", lr=0.005, batch_size=10),
    partition="natural",
    clients=20,
)
dirichlet = replace(
    pathological,
    name="dirichlet",
    data=_pfllib(lambda y: closing_dirichlet(y, 20, 0.1, seed=1, least=40)),
)


def _similar(share: float) -> Callable[[Path | None], Data]:
    """The training images among 100 clients, of which a share is dealt at random, the rest by class."""

    def data(folder: Path | None) -> Data:
        data = _pixels(folder)
        x, y = data.train.take(np.arange(len(data.train)))
        train = ArraySamples(x, y, groups=partly_sorted(y, 100, share, seed=0))
        return replace(data, train=train)

    return data


def auc(outputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
    """Area under the ROC curve of logits (N, 1) for classes (N,)."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, outputs.ravel()))


def _diabetes(_: Path | None) -> Data:
    """Ten standardised measurements of 442 patients; six clients of very unequal size and target."""
    table = np.loadtxt(packaged("sklearn", "datasets/data/diabetes_data_raw.csv.gz"))
    target = np.loadtxt(packaged("sklearn", "datasets/data/diabetes_target.csv.gz"))
    x = ((table - table.mean(0)) / table.std(0)).astype(np.float32)
    y = ((target - target.mean()) / target.std()).astype(np.float32)[:, np.newaxis]
    everything = ArraySamples(x, y, groups=unequal_slices(target, 6))
    return Data(everything, everything)  # what is asked is how far the common objective is minimised


def least_loss() -> float:
    """The least mean squared error that a linear model can have on the patients."""
    x, y = _diabetes(None).train.take(np.arange(442))
    columns = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weights = np.linalg.lstsq(columns, y)[0]
    return float(np.mean((columns @ weights - y) ** 2))


logistic0 = Task(
    name="logistic0",
    model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    data=_similar(0.0),
    training=Training(optimizer="sgd", lr=0.1, batch_size=120, epochs=5),
    partition="natural",
    clients=100,
)
logistic10 = replace(logistic0, name="logistic10", data=_similar(0.1))
breast_linear = replace(
    breast,
    name="breast_linear",
    model=lambda: nn.Linear(30, 1),
    metrics={"auc": auc},
    training=Training(optimizer="momentum", lr=0.01, batch_size=32, epochs=5),
    clients=2,
)
breast_mlp = replace(
    breast_linear,
    name="breast_mlp",
    model=lambda: nn.Sequential(
        nn.Linear(30, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 1),
    ),
)
linear = Task(
    name="linear",
    model=lambda: nn.Linear(10, 1),
    data=_diabetes,
    loss="mse",
    training=Training(optimizer="sgd", lr=0.002, batch_size=16, epochs=4),
    partition="natural",
    clients=6,
)
