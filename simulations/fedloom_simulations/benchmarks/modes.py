"""Simulated time to the same accuracy: synchronous, semi-synchronous and asynchronous rounds.

    python -m fedloom_simulations.benchmarks.modes

A fifth of the clients take ten times as long. Each mode trains until it has the accuracy, with a constant
learning rate; the figure is when, on the simulated clock. Repeated runs give the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = {"sync": "30", "semisync": "30", "async": "150"}


def main() -> None:
    """Print a row a mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--clients", default="20")
    parser.add_argument("--partition", default="dirichlet:0.3")
    parser.add_argument("--accuracy", type=float, default=0.93)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    base = 0.0
    for mode, rounds in ROUNDS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [sys.executable, "-m", "fedloom_edge.cli", "simulate", options.task, "--mode", mode]
            command += ["--clients", options.clients, "--partition", options.partition, "--rounds", rounds]
            command += ["--seed", options.seed, "--out", str(out), "--set", "training.schedule=constant"]
            command += ["--set", "clock.slow=0.2", "--set", "clock.factor=10", "--set", "clock.buffer=5"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows = json.loads((out / "result.json").read_text())["rounds"]
        reached = [row for row in rows if row["accuracy"] >= options.accuracy]
        if not reached:
            sys.stdout.write(f"{mode:9} did not reach {options.accuracy:.0%} in {rounds} rounds\n")
            continue
        seconds = reached[0]["simulated_seconds"]
        base = base or seconds
        sys.stdout.write(
            f"{mode:9} {options.accuracy:.0%} after {reached[0]['round']} rounds, {seconds:.2f} simulated "
            f"seconds: {base / seconds:.1f} times sooner than sync\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
