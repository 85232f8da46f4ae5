"""Breast-cancer diagnosis from 30 measurements of cell nuclei: 569 biopsies in scikit-learn."""

from pathlib import Path

import numpy as np
from torch import nn

from fedloom_client import ArraySamples, Data, Standardize, Task, Training
from fedloom_client.sources.packaged import packaged
from fedloom_client.sources.splitting import stratified


def model() -> nn.Module:
    """An MLP with one hidden layer; its output is the logit of `benign`."""
    return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))  # (B, 1)


def data(_: Path | None) -> Data:
    """Measurements (N, 30) as they are, `Standardize` scales them; a fifth of each class is held out."""
    table = np.loadtxt(packaged("sklearn", "datasets/data/breast_cancer.csv"), delimiter=",", skiprows=1)
    x, y = table[:, :-1].astype(np.float32), table[:, -1].astype(np.int64)
    train, test = stratified(y)
    names = ("malignant", "benign")
    return Data(ArraySamples(x[train], y[train]), ArraySamples(x[test], y[test]), class_names=names)


task = Task(
    name="tabular",
    model=model,
    data=data,
    loss="binary_cross_entropy",
    preprocess=Standardize(),
    training=Training(optimizer="momentum", lr=0.05, batch_size=16, epochs=2, schedule="cosine"),
    clients=5,
)
