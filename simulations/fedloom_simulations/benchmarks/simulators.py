"""Simulators side by side: fedloom's backends, a plain loop, pooled training, Flower with Ray.

`python -m fedloom_simulations.benchmarks.simulators [WORKLOAD...]` runs whole commands in turn, each in
a process of its own, and prints the table of docs/benchmarks.md; `--runs N` repeats them in the same
order. On a shared machine processor seconds say more than wall seconds; they count one process, and
Flower works in many. Memory is the proportional set size of all processes of a command together, sampled.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from fedloom_simulations.benchmarks.peers import SIDES, WORKLOADS

MINUTES = ("mlp", "flute", "digits", "overhead")
_SAMPLED = 0.5


@dataclass
class Cost:
    """Of one command: wall seconds; wall and processor seconds a round (median, without the first); MB."""

    wall: float
    round: float
    cpu: float
    megabytes: float


def measure(side: str, name: str) -> Cost:
    """Run one side of a workload."""
    command = [sys.executable, "-m", "fedloom_simulations.benchmarks.peers", side, name]
    began = time.perf_counter()
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        peak = _Peak(process.pid)
        text = process.communicate()[0]
        wall = time.perf_counter() - began
        memory = peak.stop()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    rounds = json.loads(text.strip().splitlines()[-1])
    walls, cpus = zip(*(rounds[1:] or rounds), strict=True)
    return Cost(wall, median(walls), median(cpus), memory)


class _Peak:
    """The largest memory of a process and its descendants, sampled until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._largest, self._over = pid, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """End the sampling; returns MB."""
        self._over.set()
        self._thread.join()
        return self._largest

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLED):
            self._largest = max(self._largest, sum(map(_pss, _family(self._pid))))


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]
        for thread in threads:
            children += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def main() -> None:
    """Print a row a workload and side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", nargs="*", default=list(MINUTES), choices=[*WORKLOADS, []])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    arguments = parser.parse_args()
    sys.stdout.write(
        "| workload | side | command, s | a round, s | x fedloom's | CPU s | x fedloom's | MB |\n"
    )
    sys.stdout.write("|---|---|---|---|---|---|---|---|\n")
    for name in arguments.workloads:
        costs: dict[str, list[Cost]] = {side: [] for side in arguments.sides}
        for _ in range(arguments.runs):
            for side in arguments.sides:
                costs[side].append(measure(side, name))
        ours = [median(column) for column in zip(*map(astuple, costs[arguments.sides[0]]), strict=True)]
        for side, runs in costs.items():
            wall, each, cpu, memory = (median(column) for column in zip(*map(astuple, runs), strict=True))
            sys.stdout.write(
                f"| {name} | {side} | {wall:.1f} | {each:.4f} | {each / ours[1]:.2f} | {cpu:.4f} | "
                f"{cpu / ours[2]:.2f} | {memory:.0f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
