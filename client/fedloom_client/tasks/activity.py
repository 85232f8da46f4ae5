"""Seven physiotherapy exercises from a smartwatch (seglearn's data): one person is one client."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedloom_client import ArraySamples, Choice, Data, Real, Standardize, Task, Training, Whole
from fedloom_client.sources.packaged import packaged

WINDOW = 128
TEST_SUBJECTS = (9, 10)


class MeanAndMax(nn.Module):
    """Each channel's mean and maximum over time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, time) -> (B, 2 C)."""
        return torch.cat([x.mean(2), x.amax(2)], 1)


def model() -> nn.Module:
    """A 1-D CNN over time. Group normalisation: running statistics of one person fit no other."""
    return nn.Sequential(
        nn.Conv1d(6, 32, 7, stride=2, padding=3),  # (B, 32, 64)
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.Conv1d(32, 64, 5, stride=2, padding=2),  # (B, 64, 32)
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.Conv1d(64, 64, 3, padding=1),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        MeanAndMax(),
        nn.Dropout(0.3),
        nn.Linear(128, 7),
    )


def data(_: Path | None) -> Data:
    """Half-overlapping windows (N, 6, WINDOW) of acceleration and rotation; two people are held out."""
    # A pickled dict: as trustworthy as the code of the package, which the user installed.
    watch = np.load(packaged("seglearn", "data/watch_dataset.npy"), allow_pickle=True).item()
    x, recording = [], []
    for number, signal in enumerate(watch["X"]):  # (time, 6)
        for start in range(0, len(signal) - WINDOW + 1, WINDOW // 2):
            x.append(signal[start : start + WINDOW].T)
            recording.append(number)
    blocks = np.array(recording)
    subjects = watch["subject"].astype(np.int64)[blocks]
    windows, y = np.array(x, np.float32), watch["y"].astype(np.int64)[blocks]
    held_out = np.isin(subjects, TEST_SUBJECTS)
    train, test = (
        ArraySamples(windows[part], y[part], groups=subjects[part], blocks=blocks[part])
        for part in (~held_out, held_out)
    )
    return Data(train, test, class_names=tuple(watch["y_labels"]))


def majority(data: Data) -> float:
    """Accuracy of always saying the most frequent exercise of the training part."""
    _, past = data.train.take(np.arange(len(data.train)))
    _, y = data.test.take(np.arange(len(data.test)))
    return float((y == np.bincount(past).argmax()).mean())


def statistics(data: Data) -> float:
    """Accuracy of logistic regression on each channel's mean, deviation, minimum and maximum."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (past_x, past_y), (x, y) = (part.take(np.arange(len(part))) for part in (data.train, data.test))
    past, now = (
        np.concatenate([f(signal, axis=2) for f in (np.mean, np.std, np.min, np.max)], axis=1)
        for signal in (past_x, x)
    )
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(past, past_y)
    return float(fitted.score(now, y))


task = Task(
    name="activity",
    model=model,
    data=data,
    preprocess=Standardize(axis=1),
    training=Training(optimizer="adam", lr=0.002, batch_size=32, epochs=2, schedule="cosine"),
    partition="natural",
    clients=0,
    baselines={"majority class": majority, "logistic regression on window statistics": statistics},
    space={
        "training.optimizer": Choice(("adam", "adamw", "momentum")),
        "training.lr": Real(low=2e-4, high=0.05, log=True),
        "training.batch_size": Choice((16, 32, 64)),
        "training.epochs": Whole(low=1, high=5),
        "training.weight_decay": Real(low=0.0, high=0.01),
        "training.clip_norm": Choice((0.0, 1.0, 5.0)),
    },
)
