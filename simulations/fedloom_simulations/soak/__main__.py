"""Kill short runs at random instants, resume them, and check that nothing was lost and nothing changed.

    python -m fedloom_simulations.soak --schedules 200 --seed 1
    python -m fedloom_simulations.soak --only simulate --schedules 100 --kills 1
    python -m fedloom_simulations.soak --only serve --schedules 20 --kills 1

Each schedule is a small federation (strategy, faults, attack, guard policy drawn from the seed) whose
clients keep a state. It is run once without a break, and once killed with SIGKILL, again and again, at
instants drawn from the seed; `fedloom resume` goes on each time. The laws: the same final
arrays_sha256, the same rounds and figures, every update in a round exactly once, a store that SQLite
finds whole, no file that an unbroken run does not leave, no array file that nothing refers to, no
process left. With --only the run is the same every time, `digits` under FedAdam. With `serve` it is the
coordinator of `fedloom serve --local 3` that is killed; its weights must also be those of `simulate`.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedloom_simulations.soak.laws import weights_hash
from fedloom_simulations.soak.schedule import PHASES, Outcome, Schedule, Whole, run_schedule, run_whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; returns 1 if a law does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m fedloom_simulations.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--schedules", type=int, default=200, metavar="N", help="how many; default: 200")
    parser.add_argument("--seed", type=int, default=1, metavar="K", help="of the schedules; default: 1")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="most kills of a run; default: 3")
    parser.add_argument("--only", choices=("simulate", "serve"), help="one and the same run each time")
    arguments = parser.parse_args(argv)
    killed, phases, bad, done = 0, dict.fromkeys(PHASES, 0), 0, 0
    with tempfile.TemporaryDirectory() as shared:
        whole = _shared_whole(arguments.only, arguments.seed, Path(shared)) if arguments.only else None
        for number in itertools.count():
            outcome = _one(arguments, number, whole)
            bad += bool(outcome.faults)
            if outcome.killed:  # otherwise it was done before the first kill, and another takes its place
                done += 1
                killed += outcome.killed
                for phase in outcome.phases:
                    phases[phase] += 1
                if sys.stdout.isatty() or done % 20 == 0:
                    sys.stdout.write(f"{done} schedules, {killed} kills, {bad} with a broken law\n")
                    sys.stdout.flush()
            if done == arguments.schedules:
                break
    where = ", ".join(f"{phases[phase]} {words}" for phase, words in PHASES.items())
    sys.stdout.write(f"{done} schedules with {killed} kills ({where}), {bad} with a broken law\n")
    return int(bad > 0)


def _one(arguments: argparse.Namespace, number: int, whole: Whole | None) -> Outcome:
    given = (arguments.seed, number, arguments.kills)
    only = arguments.only
    schedule = Schedule.repeated(only, *given) if only else Schedule.drawn(*given)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_schedule(schedule, Path(folder), whole)
    if outcome.faults:
        sys.stdout.write(
            f"schedule {number}: {'; '.join(outcome.faults)}: {' '.join(schedule.options)} "
            f"killed at {np.round(schedule.kills, 3).tolist()}\n"
        )
    return outcome


def _shared_whole(command: str, seed: int, folder: Path) -> Whole:
    """The run that all schedules break; if it is served, with the weights of the same run simulated."""
    schedule = Schedule.repeated(command, seed, 0)
    whole = run_whole(schedule, folder / "whole")
    if command == "serve":
        same = {"--local": "--clients", "--trainer": "--backend"}
        options = tuple(same.get(word, word) for word in schedule.options)
        simulated = run_whole(replace(schedule, command="simulate", options=options), folder / "simulated")
        if weights_hash(whole.folder) != weights_hash(simulated.folder):
            raise SystemExit("an unbroken served run has other weights than a simulated one")
    return whole


if __name__ == "__main__":
    sys.exit(main())
