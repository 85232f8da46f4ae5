"""Where the time of a round goes: py-spy's samples of `fedloom simulate`, by part.

    pip install py-spy
    python -m fedloom_simulations.benchmarks.profiles --write

runs workloads of `benchmarks.peers` on one thread under py-spy and prints the table of docs/benchmarks.md.
Only samples from within rounds count. `--native` tells nothing more here: PyTorch's kernels have no symbols.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fedloom_simulations.benchmarks.peers import WORKLOADS
from fedloom_simulations.benchmarks.written import write_section

ROUNDS = {"mlp": 400, "flute": 300, "overhead": 30, "digits": 20, "fashion": 4}
_RATE = 200  # samples a second
_ROUND = "_round (fedloom_server/rounds/federation.py"
# The first part whose word is in a stack has the sample.
PARTS = {
    "test set": ("_central (",),
    "clients' seeds and batches": ("courses (", "chunks (", "read_seed ("),
    "training": ("fit_stacked (", "_fitted ("),
    "guard and exact sums": ("fedloom_server/guard", "exact_mean.py", "fedloom_server/strategies/updates.py"),
    "strategy": ("flwr/serverapp/strategy",),
    "store": ("fedloom_server/store", "fedloom_server/recovery"),
}
REST = "messages, rows, metrics"


def profile(workload: str, rounds: int) -> tuple[Counter[str], int]:
    """Samples of a workload's rounds by part, and how many there are.

    Raises:
        SystemExit: there is no py-spy, or it failed.
    """
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if spy is None:
        raise SystemExit("there is no py-spy; pip install py-spy")
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        side = [
            sys.executable,
            "-m",
            "fedloom_simulations.benchmarks.peers",
            "fedloom",
            workload,
            str(rounds),
        ]
        command = [
            spy,
            "record",
            "--rate",
            str(_RATE),
            "--format",
            "raw",
            "--output",
            str(stacks),
            "--",
            *side,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found: Counter[str] = Counter()
        for line in stacks.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if _ROUND in stack:
                found[_part(stack)] += int(count)
    return found, found.total()


def _part(stack: str) -> str:
    return next((part for part, words in PARTS.items() if any(word in stack for word in words)), REST)


def main() -> None:
    """Print the table, and write it into the documentation if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], help=f"default: {' '.join(ROUNDS)}")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    arguments = parser.parse_args()
    columns = [*PARTS, REST]
    table = f"| workload | ms a round | {' | '.join(columns)} |\n|---{'|---' * (len(columns) + 1)}|\n"
    sys.stdout.write(table)
    for name in arguments.workloads or ROUNDS:
        rounds = ROUNDS.get(name, 5)
        found, total = profile(name, rounds)
        shares = " | ".join(f"{100 * found[part] / total:.0f} %" for part in columns)
        row = f"| {name} | {1000 * total / _RATE / rounds:.1f} | {shares} |\n"
        sys.stdout.write(row)
        sys.stdout.flush()
        table += row
    if arguments.write:
        write_section("profiles", table)


if __name__ == "__main__":
    main()
