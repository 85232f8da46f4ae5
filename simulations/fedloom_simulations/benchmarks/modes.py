"""Simulated time to the same accuracy: synchronous, semi-synchronous and asynchronous rounds.

    python -m fedloom_simulations.benchmarks.modes [--seeds 1 2 3]

A fifth of the clients take ten times as long. Each mode trains with a constant learning rate; the figure
is when, on the simulated clock, it first has the accuracy. Repeated runs give the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROUNDS = {"sync": "20", "semisync": "30", "async": "120"}
_LAST = 10  # rounds whose accuracy is averaged


def main() -> None:
    """Print a row a seed and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--clients", default="20")
    parser.add_argument("--partition", default="dirichlet:0.3")
    parser.add_argument("--accuracy", type=float, default=0.93)
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--modes", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    options = parser.parse_args()
    for seed in options.seeds:
        base = 0.0
        for mode in options.modes:
            rows = _run(options, mode, seed)
            end = fmean(row["accuracy"] for row in rows[-_LAST:])
            reached = next((row for row in rows if row["accuracy"] >= options.accuracy), None)
            seconds = reached["simulated_seconds"] if reached else float("inf")
            note = f" (round {reached['round']})" if reached else ""
            over = rows[-1]["simulated_seconds"]
            base = base or seconds
            sys.stdout.write(
                f"seed {seed} {mode:9} {options.accuracy:.0%} after {seconds:6.2f} simulated seconds"
                f"{note}, {base / seconds:.1f} times sooner than "
                f"{options.modes[0]}; last {_LAST} rounds {end:.4f}, at {over:.1f} s\n"
            )
            sys.stdout.flush()


def _run(options: argparse.Namespace, mode: str, seed: str) -> Sequence[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "fedloom_edge.cli", "simulate", options.task, "--mode", mode]
        command += ["--clients", options.clients, "--partition", options.partition]
        command += ["--rounds", ROUNDS[mode], "--seed", seed, "--out", str(out)]
        command += ["--set", "training.schedule=constant"]
        command += ["--set", "clock.slow=0.2", "--set", "clock.factor=10", "--set", "clock.buffer=5"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows: list[dict[str, Any]] = json.loads((out / "result.json").read_text())["rounds"]
        return rows


if __name__ == "__main__":
    main()
