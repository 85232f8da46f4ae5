"""Kill short runs at random instants, resume them, and check that nothing was lost and nothing changed.

    python -m fedloom_simulations.soak --schedules 200 --seed 1

Each schedule is a small federation (strategy, sampling, faults, guard policy drawn from the seed) that
is run once without a break, and once killed with SIGKILL, again and again, at instants drawn from the
seed; `fedloom resume` goes on each time. The laws: the same final arrays_sha256, the same rounds and
figures, every update in a round exactly once, a store that SQLite finds whole, no file of a temporary
name, no file of arrays that nothing refers to, no process left.
"""

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_client.seeds import generator
from fedloom_edge.cli import main as fedloom
from fedloom_server.checkpoints import arrays_in
from fedloom_server.store import RunStore

STRATEGIES: Sequence[tuple[str, ...]] = (
    ("fedavg",),
    ("fedadam", "--set", "strategy.eta=0.01"),
    ("fedavgm", "--set", "strategy.server_momentum=0.5"),
    ("fedmedian",),
    ("centredclipping",),
    ("dp-server-adaptive:fedyogi", "--set", "strategy.noise_multiplier=0.01"),
)
FAULTS = ("", "drop=0.2,stale=0.2", "crash=0.2,nan=0.2", "drop=0.3,crash=0.1,nan=0.1,stale=0.2")
_LIMIT = 300.0  # seconds for one process


@dataclass(frozen=True)
class Schedule:
    """One federation and when its processes are killed.

    Attributes:
        options: of `fedloom simulate`.
        kills: share of a process's life, in (0, 1), at which it is killed; one entry a process.
        every_update: whether an open round is saved after each update, or only at a slow pace.
    """

    options: tuple[str, ...]
    kills: tuple[float, ...]
    every_update: bool

    @classmethod
    def drawn(cls, seed: int, number: int, most_kills: int = 3) -> "Schedule":
        """The schedule `number` of a soak."""
        draw = generator(seed, "soak", number)
        strategy = STRATEGIES[int(draw.integers(len(STRATEGIES)))]
        options = [
            "digits",
            "--clients",
            "4",
            "--rounds",
            "3",
            "--seed",
            str(number),
            "--strategy",
            *strategy,
        ]
        options += ["--set", "training.epochs=1"]
        if faults := FAULTS[int(draw.integers(len(FAULTS)))]:
            options += ["--faults", faults, "--set", "guard.attempts=6"]
        options += ["--set", f"guard.norms={('quarantine', 'clip')[int(draw.integers(2))]}"]
        kills = tuple(draw.random(int(draw.integers(1, most_kills + 1))).tolist())
        return cls(tuple(options), kills, bool(draw.integers(2)))


@dataclass
class Outcome:
    """What a schedule came to.

    Attributes:
        killed: processes that died of SIGKILL, the others having been done before.
        faults: laws that do not hold, in words.
        phases: where the run stood when it was taken up again: `round`, or `open` in mid-round.
    """

    killed: int = 0
    faults: list[str] = field(default_factory=list[str])
    phases: list[str] = field(default_factory=list[str])


def run_schedule(schedule: Schedule, folder: Path) -> Outcome:
    """Run a schedule in `folder` and check the laws."""
    whole, broken = folder / "whole", folder / "broken"
    outcome = Outcome()
    began = time.monotonic()
    simulate = [*schedule.options, "--out"]
    code = _process(["simulate", *simulate, str(whole)], schedule.every_update)
    life = time.monotonic() - began
    start = ["simulate", *simulate, str(broken)]
    argv = start
    for share in schedule.kills:
        ended = _process(argv, schedule.every_update, share * life)
        outcome.killed += ended == -signal.SIGKILL
        if _begun(broken):
            argv = ["resume", str(broken)]
            outcome.phases.append(_phase(broken))
        else:
            _clear(broken)
            argv = start
    last = _process(argv, schedule.every_update)
    if last != code:
        outcome.faults.append(f"exit code {last} instead of {code}")
    outcome.faults += compare(whole, broken)
    return outcome


def compare(whole: Path, broken: Path) -> list[str]:
    """The laws that do not hold between an unbroken run and one that was broken and resumed."""
    faults: list[str] = []
    with RunStore.open(whole) as expected, RunStore.open(broken) as found:
        for name, rows in (("round", _rounds), ("client", _clients)):
            if rows(expected) != rows(found):
                faults.append(f"the {name} figures differ")
        if _hash(whole) != _hash(broken):
            faults.append("arrays_sha256 differs")
        updates = found.execute(
            "SELECT count(*), count(DISTINCT round * 1000 + client) FROM client_round WHERE phase = 'train'"
        )[0]
        if updates[0] != updates[1]:
            faults.append("an update is in a round twice")
        if (check := found.execute("PRAGMA integrity_check")[0][0]) != "ok":
            faults.append(f"run.db: {check}")
        used = set().union(
            *(arrays_in(json.loads(row[0])) for row in found.execute("SELECT state FROM checkpoint"))
        )
        for table in ("client_state", "quarantine"):
            used |= {row[0] for row in found.execute(f"SELECT arrays FROM {table} WHERE arrays IS NOT NULL")}
        kept = {path.stem for path in (broken / "arrays").glob("*.safetensors")}
        if len(kept - used) > 1:  # the best round's is in nobody's state
            faults.append(f"{len(kept - used)} array files that nothing refers to")
        if used - kept:
            faults.append(f"{len(used - kept)} array files are missing")
    faults += [f"left over: {path.name}" for path in broken.rglob(".*")]
    return faults


def _rounds(store: RunStore) -> list[Any]:
    timing = ("seconds", "train_seconds", "aggregate_seconds", "bytes_up")
    return [{k: v for k, v in vars(r).items() if k not in timing} for r in store.rounds()]


def _clients(store: RunStore) -> list[Any]:
    parts = [*store.client_rounds("train"), *store.client_rounds("evaluate")]
    return [(p.round, p.client, p.phase, p.status, p.examples, p.loss, p.metric) for p in parts]


def _hash(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["arrays_sha256"]


def _begun(folder: Path) -> bool:
    """Whether the run has anything to go on from or to start with: its facts are written first of all."""
    try:
        with RunStore.open(folder) as store:
            return "arguments" in store.facts()
    except Exception:  # noqa: BLE001  (killed while the database was made: nothing of the run is there)
        return False


def _phase(folder: Path) -> str:
    with RunStore.open(folder) as store:
        rows = store.execute("SELECT open FROM checkpoint ORDER BY id DESC LIMIT 1")
    return "start" if not rows else "open" if rows[0][0] else "round"


def _clear(folder: Path) -> None:
    """What was killed before it wrote down what it is has lost nothing, and is started again."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _process(argv: Sequence[str], every_update: bool, kill_after: float | None = None) -> int:
    """Run `fedloom` in a process, killed after some seconds; its exit code, or minus the signal.

    Processes are forked from a server that has imported everything and runs no thread: importing torch
    anew takes longer than a run, and a fork of a process with threads may wait for a lock forever.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["fedloom_simulations.session", "fedloom_simulations.inline"])
    process = processes.Process(target=_run, args=(list(argv), every_update))
    process.start()
    process.join(_LIMIT if kill_after is None else kill_after)
    process.kill()  # one that has ended takes no harm
    process.join()
    return int(process.exitcode or 0)


def _run(argv: Sequence[str], every_update: bool) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        _prepare(every_update)
        code = fedloom(argv)
    os._exit(code)


def _prepare(every_update: bool) -> None:
    if every_update:
        import fedloom_server.open_round

        fedloom_server.open_round.Pace.due = lambda self: True  # type: ignore[method-assign]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; returns 1 if a law does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3, help="most kills of one run")
    arguments = parser.parse_args(argv)
    killed, phases, bad = 0, dict.fromkeys(("start", "round", "open"), 0), 0
    for number in range(arguments.schedules):
        schedule = Schedule.drawn(arguments.seed, number, arguments.kills)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_schedule(schedule, Path(folder))
        killed += outcome.killed
        for phase in outcome.phases:
            phases[phase] += 1
        bad += bool(outcome.faults)
        if outcome.faults:
            sys.stdout.write(
                f"schedule {number}: {'; '.join(outcome.faults)}: {' '.join(schedule.options)} "
                f"killed at {np.round(schedule.kills, 3).tolist()}\n"
            )
        if sys.stdout.isatty() or (number + 1) % 20 == 0:
            sys.stdout.write(f"{number + 1} schedules, {killed} kills, {bad} broken laws\n")
        sys.stdout.flush()
    sys.stdout.write(
        f"{arguments.schedules - bad} of {arguments.schedules} schedules keep every law; {killed} kills, "
        f"resumed {phases['open']} times in mid-round, {phases['round']} between rounds, "
        f"{phases['start']} from the start\n"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
