"""What privacy costs: test accuracy with and without it at the same rounds and seeds.

    python -m fedloom_simulations.benchmarks.privacy [--seeds 1 2 3]

Clients hidden: softmax regression on `digits`, 200 clients of which each takes part in a round with
probability 1/4. Samples hidden: the network of `mnist` and 10 clients of 320 examples.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_edge.cli import main as fedloom

_SOFTMAX = (f"{Path(__file__).with_name('tasks.py')}:softmax", "--clients", "200", "--rounds", "40")
_MNIST = ("mnist", "--clients", "10", "--rounds", "15", "--set", "training.optimizer=sgd")
_CENTRAL = (
    "--strategy", "dp-server-fixed", "--set", "strategy.fraction_train=0.25",
    "--set", "strategy.clipping_norm=1", "--privacy", "delta=1e-3",
)  # fmt: skip
_SGD = ("--set", "training.lr=0.25", "--set", "training.batch_size=64", "--set", "training.dp_clip=1")
ROWS: dict[str, tuple[str, ...]] = {
    "clients, no privacy": (*_SOFTMAX, "--set", "strategy.fraction_train=0.25"),
    "clients, noise 1": (*_SOFTMAX, *_CENTRAL, "--set", "strategy.noise_multiplier=1"),
    "clients, noise 2": (*_SOFTMAX, *_CENTRAL, "--set", "strategy.noise_multiplier=2"),
    "samples, no privacy": (*_MNIST, "--set", "training.lr=0.1", "--set", "training.batch_size=32"),
    "samples, noise 1": (*_MNIST, *_SGD, "--set", "training.dp_noise=1"),
    "samples, noise 2": (*_MNIST, *_SGD, "--set", "training.dp_noise=2"),
}


def run(options: Sequence[str], seed: int) -> dict[str, Any]:
    """The result of one run, IID."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["simulate", *options, "--partition", "iid", "--seed", str(seed), "--out", str(out)]
        with contextlib.redirect_stdout(io.StringIO()):
            if fedloom(words):
                raise SystemExit(f"{' '.join(options)} failed")
        result: dict[str, Any] = json.loads((out / "result.json").read_text())
        return result


def main() -> None:
    """Print a table in Markdown, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    sys.stdout.write("| | epsilon | delta | accuracy, % | seconds a round |\n|---|---|---|---|---|\n")
    for name in options.rows:
        results = [run(ROWS[name], seed) for seed in options.seeds]
        accuracy = [100 * result["final"]["accuracy"] for result in results]
        seconds = np.median([entry["seconds"] for result in results for entry in result["rounds"]])
        spent, delta = results[0]["final"].get("epsilon"), results[0].get("privacy", {}).get("delta")
        told = f"{spent:.2f} | {delta:g}" if spent else "- | -"
        sys.stdout.write(
            f"| {name} | {told} | {np.mean(accuracy):.1f} ({min(accuracy):.1f} to {max(accuracy):.1f}) | "
            f"{seconds:.2f} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
