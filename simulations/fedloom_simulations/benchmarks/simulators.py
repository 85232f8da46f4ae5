"""Simulators side by side: fedloom's backends, a plain loop, pooled training, Flower with Ray, and others.

`python -m fedloom_simulations.benchmarks.simulators [WORKLOAD...]` runs whole commands in turn, each in
a process of its own, and prints the table of docs/benchmarks.md, as each workload is done; `--runs N`
repeats them in the same order. On a shared machine processor seconds say more than wall seconds: those
of a command are of all of its processes, those of a round of the main one (Flower works in others).
Memory is the proportional set size of all processes of a command together, sampled.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from fedloom_simulations.benchmarks.outside.models import MODELS
from fedloom_simulations.benchmarks.outside.run import PEERS, interpreter
from fedloom_simulations.benchmarks.peers import SIDES, WORKLOADS
from fedloom_simulations.benchmarks.written import Point, draw, write_section

MINUTES = ("mlp", "flute", "digits", "overhead")
_SAMPLED = 0.5
_FLOWERS = 100  # clients a round at most, of which Flower on Ray does not take a quarter of an hour


@dataclass
class Cost:
    """Of one command: wall and processor seconds, those of a round (median, without the first), MB."""

    wall: float
    cpu: float
    round: float
    round_cpu: float
    megabytes: float


def measure(side: str, name: str, rounds: int = 0, threads: int = 1) -> Cost | None:
    """Run one side of a workload; None where it fails, which is said."""
    more = [str(rounds)] if rounds else []
    command = [sys.executable, "-m", "fedloom_simulations.benchmarks.peers", side, name, *more]
    began = time.perf_counter()
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        peak = _Peak(process.pid)
        text = process.communicate()[0]
        wall = time.perf_counter() - began
        memory, cpu = peak.stop()
    if process.returncode:
        sys.stderr.write(f"{' '.join(command)} ended with {process.returncode}\n")
        return None
    laps = json.loads(text.strip().splitlines()[-1])
    walls, cpus = zip(*(laps[1:] or laps), strict=True)
    return Cost(wall, cpu, median(walls), median(cpus), memory)


class _Peak:
    """The largest memory and the processor time of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid, self._largest, self._over = pid, 0.0, threading.Event()
        self._seconds: dict[int, float] = {}
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """End the sampling; returns MB and seconds."""
        self._over.set()
        self._thread.join()
        return self._largest, sum(self._seconds.values())

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLED):
            family = list(_family(self._pid))
            self._largest = max(self._largest, sum(map(_pss, family)))
            for pid in family:
                self._seconds[pid] = max(self._seconds.get(pid, 0.0), _processor(pid))


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


def _processor(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


HEAD = (
    "| workload | side | command, s | CPU s | a round, s | x fedloom's | CPU s | x fedloom's | MB |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def compare(
    name: str, sides: Sequence[str], runs: int, rounds: int, threads: int = 1
) -> tuple[str, list[Point]]:
    """Rows of the table for a workload, and points of the plot."""
    known = WORKLOADS[name].task.rpartition(":")[2] in MODELS  # to scripts that import nothing of fedloom
    sides = [side for side in sides if known or side not in PEERS]
    if WORKLOADS[name].cohort > _FLOWERS:
        sides = [side for side in sides if side != "flower"]
    costs: dict[str, list[Cost]] = {side: [] for side in sides}
    for _ in range(runs):
        for side in sides:
            if (cost := measure(side, name, rounds, threads)) is not None:
                costs[side].append(cost)
    middle = {
        side: Cost(*map(median, zip(*map(astuple, own), strict=True))) for side, own in costs.items() if own
    }
    ours = middle[sides[0]]
    rows: list[str] = []
    points: list[Point] = []
    for side in sides:
        if (cost := middle.get(side)) is None:
            rows.append(f"| {name} | {side} | failed | | | | | | |\n")
            continue
        rows.append(
            f"| {name} | {side} | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.round:.4f} | "
            f"{cost.round / ours.round:.2f} | {_told(cost.round_cpu, 4)} | "
            f"{_told(cost.round_cpu / ours.round_cpu, 2)} | {cost.megabytes:.0f} |\n"
        )
        points.append(Point(side, WORKLOADS[name].clients, cost.round, cost.megabytes))
    return "".join(rows), points


def _told(value: float, digits: int) -> str:
    """A number; nothing for one that is not known."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def main() -> None:
    """Print rows for each workload and side, and write them into the documentation if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "workloads", nargs="*", choices=[*WORKLOADS, []], help=f"default: {' '.join(MINUTES)}"
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=0, help="fewer or more than a workload's own")
    parser.add_argument(
        "--threads", type=int, default=1, help="of each side; above 1 fedloom forks as it likes"
    )
    parser.add_argument("--sides", nargs="+", default=None, choices=SIDES)
    parser.add_argument("--write", metavar="SECTION", help="of docs/benchmarks.md, to put the table in")
    arguments = parser.parse_args()
    sides = arguments.sides or [s for s in SIDES if s not in PEERS or interpreter(s).exists()]
    table = HEAD
    points: list[Point] = []
    sys.stdout.write(HEAD)
    for name in arguments.workloads or MINUTES:
        rows, more = compare(name, sides, arguments.runs, arguments.rounds, arguments.threads)
        table, points = table + rows, points + more
        sys.stdout.write(rows)
        sys.stdout.flush()
        if arguments.write:
            write_section(arguments.write, table)
            if name.startswith("scale-"):
                draw(points)


if __name__ == "__main__":
    main()
