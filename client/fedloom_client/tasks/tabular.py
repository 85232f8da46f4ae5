"""Breast-cancer diagnosis from 30 measurements of cell nuclei: 569 biopsies in scikit-learn."""

from pathlib import Path

import numpy as np
from torch import nn

from fedloom_client import ArraySamples, Data, Standardize, Task, Training


def model() -> nn.Module:
    """An MLP with one hidden layer; its output is the logit of `benign`."""
    return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))  # (B, 1)


def data(_: Path | None) -> Data:
    """Measurements (N, 30) as they are, `Standardize` scales them; a fifth of each class is held out."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    table = load_breast_cancer()
    x, y = table.data.astype(np.float32), table.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    names = tuple(str(name) for name in table.target_names)
    return Data(ArraySamples(x_train, y_train), ArraySamples(x_test, y_test), class_names=names)


task = Task(
    name="tabular",
    model=model,
    data=data,
    loss="binary_cross_entropy",
    preprocess=Standardize(),
    training=Training(optimizer="momentum", lr=0.05, batch_size=16, epochs=2, schedule="cosine"),
    clients=5,
)
