"""The benchmarks' own tasks: `fedloom simulate PATH/tasks.py:logistic`."""

from pathlib import Path

import numpy as np
from torch import nn

from fedloom_client import ArraySamples, Data, Task, Training
from fedloom_client.tasks import digits as digits_task
from fedloom_client.tasks import fashion as fashion_task
from fedloom_simulations.benchmarks.outside import models

SGD = Training(optimizer="sgd", lr=0.03, batch_size=10)


def _made_up(count: int, shape: tuple[int, ...]) -> ArraySamples:
    """Noise with a class in its mean: the arithmetic of real images, of any number and size."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, count)
    x = rng.standard_normal((count, *shape), np.float32)
    return ArraySamples(x + (y / 10).astype(np.float32).reshape(-1, *[1] * len(shape)), y)


def _separable(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(),
        nn.Conv2d(inner, outer, 1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU6(),
    )


def mobilenet() -> nn.Module:
    """MobileNet's blocks (Howard et al., 2017), six of them, for 32x32 pixels."""
    widths = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    stem = (nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
    blocks = (_separable(*width) for width in widths)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def _images(count: int) -> Data:
    return Data(_made_up(count, (3, 32, 32)), _made_up(1000, (3, 32, 32)))


def _fashion(folder: Path | None) -> Data:
    return fashion_task.data(folder)


logistic = Task(name="logistic", model=models.logistic, data=_fashion, training=SGD)
mlp = Task(name="mlp", model=models.mlp, data=digits_task.data, training=Training(batch_size=16))
softmax = Task(
    name="softmax",
    model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    data=digits_task.data,
    training=Training(optimizer="sgd", lr=0.5, batch_size=16, epochs=2),
)
cnn = Task(name="cnn", model=models.small_cnn, data=lambda _: _images(50_000), training=SGD)
mobile = Task(name="mobile", model=mobilenet, data=lambda _: _images(2_000), training=SGD)
logistic50 = Task(name="logistic50", model=models.logistic, data=lambda _: _flat(55_556), training=SGD)


def _flat(count: int) -> Data:
    return Data(_made_up(count, (784,)), _made_up(1000, (784,)))
