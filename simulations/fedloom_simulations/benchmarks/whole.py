"""Clients that do more than train: one by one, as `auto` runs them, and on Flower's engine with Ray.

`python -m fedloom_simulations.benchmarks.whole [WORKLOAD...]` runs whole commands in turn and prints the
table of docs/benchmarks.md: seconds of a round, the median of all but the first two.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

_TASKS = Path(__file__).with_name("tasks.py")
WORKLOADS = {
    "mlp": (f"{_TASKS}:mlp", "--clients", "100"),
    "digits": ("digits", "--clients", "100"),
    "mnist": ("mnist", "--clients", "100"),
    "stocks": ("stocks",),
}
ORDERS = {
    "scaffold": ("--strategy", "scaffold"),
    "ditto": ("--strategy", "ditto"),
    "int8": ("--compress", "int8"),
}
SIDES = {
    "one by one": ("--backend", "torch", "--workers", "1"),
    "fedloom": (),
    "ray": ("--engine", "ray"),
}
_ROUNDS, _FIRST = 6, 2
_SGD = ("--set", "training.optimizer=momentum", "--set", "training.lr=0.01")


def round_seconds(options: Sequence[str]) -> tuple[float, str]:
    """A round's median seconds of one command, and the backend that it ran on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fedloom_edge.cli", "simulate", *options, "--out", f"{folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        result = json.loads(Path(folder, "run", "result.json").read_text())
    return median(entry["seconds"] for entry in result["rounds"][_FIRST:]), result["backend"]


def main() -> None:
    """Print a row for each workload and each kind of clients."""
    chosen = sys.argv[1:] or list(WORKLOADS)
    sys.stdout.write("| workload | clients | backend | one by one, s | fedloom, s | x | Ray, s | x |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|---|\n")
    for workload in chosen:
        for kind, orders in ORDERS.items():
            options = (*WORKLOADS[workload], *orders, *_SGD, "--rounds", str(_ROUNDS))
            found = {side: round_seconds([*options, *more]) for side, more in SIDES.items()}
            alone, ours, ray = (seconds for seconds, _ in found.values())
            backend = found["fedloom"][1]
            sys.stdout.write(
                f"| {workload} | {kind} | {backend} | {alone:.3f} | {ours:.3f} | {alone / ours:.2f} | "
                f"{ray:.3f} | {ray / ours:.2f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
