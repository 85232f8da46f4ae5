"""What privacy costs: test accuracy with and without it at the same rounds and seeds.

    python -m fedloom_simulations.benchmarks.privacy [--seeds 1 2 3]

Softmax regression on `digits`. Clients hidden: 200 of them, of which each takes part in a round with
probability 1/4. Samples hidden: 10 clients of 115 examples.
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

_TASK = f"{Path(__file__).with_name('tasks.py')}:softmax"
_MANY = (_TASK, "--clients", "200", "--rounds", "40", "--set", "strategy.fraction_train=0.25")
_CENTRAL = (*_MANY, "--strategy", "dp-server-fixed", "--set", "strategy.clipping_norm=1")
_FEW = (_TASK, "--clients", "10", "--rounds", "30")
_STEPS = ("lr=1", "batch_size=32", "epochs=1", "dp_clip=1")
_SAMPLES = (*_FEW, *(word for step in _STEPS for word in ("--set", f"training.{step}")))
_DELTA = {"200": 1e-3, "10": 1e-5}  # a fifth of one in 200 clients; far below one in 115 examples
ROWS: dict[str, tuple[str, ...]] = {
    "200 clients": _MANY,
    "200 clients, clients hidden, noise 1": (*_CENTRAL, "--set", "strategy.noise_multiplier=1"),
    "200 clients, clients hidden, noise 2": (*_CENTRAL, "--set", "strategy.noise_multiplier=2"),
    "10 clients": _FEW,
    "10 clients, samples hidden, noise 2": (*_SAMPLES, "--set", "training.dp_noise=2"),
}


def run(options: Sequence[str], seed: int) -> dict[str, Any]:
    """The result of one run, IID."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["simulate", *options, "--partition", "iid", "--seed", str(seed), "--out", str(out)]
        if any("noise" in word for word in options):
            words += ["--privacy", f"delta={_DELTA[options[2]]}"]
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
    sys.stdout.write("| | epsilon | delta | accuracy, % |\n|---|---|---|---|\n")
    for name in options.rows:
        results = [run(ROWS[name], seed) for seed in options.seeds]
        accuracy = [100 * result["final"]["accuracy"] for result in results]
        spent, delta = results[0]["final"].get("epsilon"), results[0].get("privacy", {}).get("delta")
        told = f"{spent:.2f} | {delta:g}" if spent else "- | -"
        sys.stdout.write(
            f"| {name} | {told} | {np.mean(accuracy):.1f} ({min(accuracy):.1f} to {max(accuracy):.1f}) |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
