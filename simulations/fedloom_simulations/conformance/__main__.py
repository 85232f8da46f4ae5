"""Hold the algorithms to what was published of them.

    python -m fedloom_simulations.conformance --short
    python -m fedloom_simulations.conformance --only unifed-linear --seeds 1

Every entry runs once a seed; the mean of its figures must lie in the published interval. Runs are kept
in the folder of --out, so that a call that was broken off goes on, and one that is done says the figures
again at once. With --write the table goes into docs/conformance.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedloom_simulations.conformance.entries import ENTRIES
from fedloom_simulations.conformance.runner import judge
from fedloom_simulations.conformance.table import line, write_table


def main(argv: Sequence[str] | None = None) -> int:
    """Run entries; returns 1 if a figure lies outside its interval."""
    parser = argparse.ArgumentParser(
        prog="python -m fedloom_simulations.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=[entry.name for entry in ENTRIES], metavar="NAME", help="these entries"
    )
    parser.add_argument("--short", action="store_true", help="entries that take seconds to a minute")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="K", help="default: 1 2 3")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/conformance"), metavar="DIR", help="of the runs"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/conformance.md")
    arguments = parser.parse_args(argv)
    verdicts = []
    chosen = [
        entry
        for entry in ENTRIES
        if entry.name in (arguments.only or [entry.name]) and (entry.short or not arguments.short)
    ]
    for entry in chosen:
        verdicts.append(judge(entry, arguments.seeds, arguments.out))
        sys.stdout.write(line(verdicts[-1]) + "\n")
        sys.stdout.flush()
    inside = sum(verdict.inside for verdict in verdicts)
    sys.stdout.write(f"{inside} of {len(verdicts)} inside\n")
    if arguments.write:
        write_table(arguments.seeds, arguments.out)
    return int(inside < len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
