"""Federated against central: the same model on the same data, cut into shards or pooled.

`python -m fedloom_simulations.benchmarks.central` prints the table of docs/benchmarks.md. The central
side is a plain PyTorch loop over all training samples, with as many epochs, the same optimiser, batch
size and learning-rate schedule; both are measured on the same held-out test set.
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from fedloom_client.loading import load_data, load_task
from fedloom_client.torch_trainer.isolation import reproducible
from fedloom_client.torch_trainer.losses import LOSSES
from fedloom_edge.cli import main as fedloom
from fedloom_simulations.benchmarks.torch_optimiser import make_optimiser

ROUNDS = {"digits": 50, "mnist": 15}  # until federated learning gets no further
CLIENTS, SEEDS = 10, (1, 2, 3)


def federated(name: str, seed: int) -> float:
    """Test accuracy of `fedloom simulate NAME`, IID."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = [
            "--clients",
            str(CLIENTS),
            "--rounds",
            str(ROUNDS[name]),
            "--seed",
            str(seed),
            "--partition",
            "iid",
        ]
        if code := fedloom(["simulate", name, *options, "--out", str(out)]):
            raise SystemExit(code)
        return float(json.loads((out / "result.json").read_text())["final"]["accuracy"])


def central(name: str, seed: int) -> float:
    """Test accuracy after as many epochs on all training samples together."""
    task = load_task(name)
    data = load_data(task, None)
    x, y = (torch.from_numpy(part) for part in data.train.take(np.arange(len(data.train))))
    test_x, test_y = (torch.from_numpy(part) for part in data.test.take(np.arange(len(data.test))))
    with reproducible(seed):
        model = task.model()
        optimiser = make_optimiser(model.parameters(), task.training)
        for number in range(1, ROUNDS[name] + 1):
            optimiser.param_groups[0]["lr"] = task.training.lr_at(number, ROUNDS[name])
            for _ in range(task.training.epochs):
                for batch in torch.split(torch.randperm(len(x)), task.training.batch_size):
                    if len(batch) > 1:  # batch norm cannot take the variance of one example
                        optimiser.zero_grad()
                        LOSSES[task.loss](model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                        optimiser.step()
        with torch.no_grad():
            outputs = model.eval()(test_x)
    return float((outputs.argmax(1) == test_y).float().mean())


def main() -> None:
    """Print the table."""
    rows = []
    for name in ROUNDS:
        pairs = [(federated(name, seed), central(name, seed)) for seed in SEEDS]
        ours, pooled = (mean(side) for side in zip(*pairs, strict=True))
        rows.append(f"| {name} | {ours:.4f} | {pooled:.4f} | {100 * (ours - pooled):+.2f} |")
    head = f"| accuracy, mean of {len(SEEDS)} seeds | federated | central | points |\n|---|---|---|---|"
    sys.stdout.write("\n".join([head, *rows, ""]))


if __name__ == "__main__":
    main()
