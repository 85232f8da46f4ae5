"""Whole commands against each other: start-up against `import torch`, inline against Ray.

`python -m fedloom_simulations.benchmarks.commands` prints the tables of docs/benchmarks.md.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
DIGITS = ["simulate", "digits", "--clients", "10", "--rounds", "3", "--seed", "1"]


def wall_seconds(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, float]:
    """Median wall time of each command, run in turn (A B A B ...) after one warm-up of each."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                out = ["--out", str(Path(folder) / "run")] if "simulate" in command else []
                subprocess.run([*command, *out], check=True, capture_output=True)
                if number:
                    taken[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in taken.items()}


def table(title: str, seconds: dict[str, float]) -> str:
    """A Markdown table: seconds, and the ratio to the last command."""
    last = list(seconds.values())[-1]
    rows = [f"| {name} | {value:.2f} | {value / last:.2f} |" for name, value in seconds.items()]
    return "\n".join([f"| {title} | s, median | ratio |", "|---|---|---|", *rows, ""])


def main() -> None:
    """Print both tables."""
    help_text = {
        "`fedloom --help`": [*FEDLOOM, "--help"],
        "`import torch`": [sys.executable, "-c", "import torch"],
    }
    engines = {
        "inline": [*FEDLOOM, *DIGITS],
        "ray": [*FEDLOOM, *DIGITS, "--engine", "ray"],
    }
    sys.stdout.write(table("start-up", wall_seconds(help_text, runs=5)) + "\n")
    sys.stdout.write(table("digits, 10 clients, 3 rounds, whole command", wall_seconds(engines, runs=3)))


if __name__ == "__main__":
    main()
