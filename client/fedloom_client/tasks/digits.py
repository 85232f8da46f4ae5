"""Handwritten digits, 8x8 pixels, 10 classes: scikit-learn's 1,797 scans. The default task."""

from pathlib import Path

import numpy as np
from torch import nn

from fedloom_client import ArraySamples, Data, Task, Training
from fedloom_client.sources.packaged import packaged
from fedloom_client.sources.splitting import stratified


def model() -> nn.Module:
    """Two convolutions with batch normalisation, then a hidden layer with dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),  # (B, 32, 8, 8)
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (B, 64, 4, 4)
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(64 * 4 * 4, 64),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(64, 10),
    )


def data(_: Path | None) -> Data:
    """Pixels in [0, 1] as (N, 1, 8, 8); a fifth of each digit is held out."""
    table = np.loadtxt(packaged("sklearn", "datasets/data/digits.csv.gz"), delimiter=",")
    x = (table[:, :-1] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    y = table[:, -1].astype(np.int64)
    train, test = stratified(y)
    names = tuple(str(digit) for digit in range(10))
    return Data(ArraySamples(x[train], y[train]), ArraySamples(x[test], y[test]), class_names=names)


task = Task(
    name="digits",
    model=model,
    data=data,
    training=Training(optimizer="adam", lr=0.001, batch_size=16, epochs=3, schedule="cosine"),
)
