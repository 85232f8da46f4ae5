"""The benchmarks' models, of torch alone."""

from collections.abc import Callable

from torch import nn


def small_cnn() -> nn.Module:
    """pfl-research's benchmark CNN: two convolutions, a pooling, two dense layers."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def logistic() -> nn.Module:
    """Logistic regression on 784 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def mlp() -> nn.Module:
    """64-64-10, for 8x8 digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "logistic": logistic,
    "logistic50": logistic,
    "mlp": mlp,
    "cnn": small_cnn,
}
"""By the name of the benchmarks' task."""
