"""Kill runs at random instants, resume them, and check that nothing shows.

`python -m fedloom_simulations.soak --kills 100`

Each schedule is a run of `digits` in a process of its own that is killed (SIGKILL) at an instant drawn
from its seed, resumed in a new process, killed again, and so on, and at last left in peace. The laws:
the final arrays_sha256 is that of an unbroken run, every round and every client of it is in the store
exactly once, the store is readable, and no temporary file is left.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import sqlite3
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from fedloom_edge.cli import main as fedloom
from fedloom_server.store import DATABASE, RunStore

_RUN = ["simulate", "digits", "--clients", "3", "--rounds", "4", "--set", "training.epochs=1"]
_STRATEGIES = ("fedavg", "fedadam")
_KILLS = 5  # a schedule
_PATIENCE = 300.0  # seconds for a process that nobody kills


def _command(argv: list[str], log: str) -> None:
    with Path(log).open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = fedloom(argv)
    sys.exit(code)


class Soak:
    """Runs schedules below a folder and keeps what broke a law."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.kills = 0
        self._processes = multiprocessing.get_context("forkserver")
        # Each process is forked from one that has imported everything, so that kills meet the run and
        # not the imports.
        self._processes.set_forkserver_preload(["fedloom_simulations.session", "fedloom_simulations.inline"])

    def start(self, argv: list[str], log: Path) -> BaseProcess:
        """`fedloom argv` in a process."""
        process = self._processes.Process(target=_command, args=(argv, str(log)))
        process.start()
        return process

    def unbroken(self, strategy: str) -> tuple[str, float]:
        """Hash and seconds of a run that nobody kills."""
        out = self.folder / strategy
        began = time.perf_counter()
        process = self.start([*_RUN, "--strategy", strategy, "--out", str(out)], self.folder / "log")
        process.join(_PATIENCE)
        if process.exitcode:
            raise SystemExit(f"the unbroken run ended with {process.exitcode}: see {self.folder / 'log'}")
        return _hash(out), time.perf_counter() - began

    def schedule(self, number: int, strategy: str, expected: str, seconds: float, kills: int) -> None:
        """One run with this many kills at instants drawn from `number`."""
        draw = random.Random(number)
        out, log = self.folder / f"run-{number}", self.folder / f"log-{number}"
        left = kills
        while True:
            resumes = (out / DATABASE).exists()
            begin = ["resume", str(out)] if resumes else [*_RUN, "--strategy", strategy, "--out", str(out)]
            process = self.start(begin, log)
            process.join(draw.uniform(0, seconds) if left else _PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
                if not left:
                    self.faults.append(f"schedule {number}: did not end in {_PATIENCE:g} s")
                    return
                left -= 1
                self.kills += 1
            else:
                break
        if process.exitcode:
            self.faults.append(f"schedule {number}: exit code {process.exitcode}, see {log}")
        else:
            self.faults += [f"schedule {number}: {fault}" for fault in _faults(out, expected)]


def _hash(out: Path) -> str:
    return str(json.loads((out / "result.json").read_text())["arrays_sha256"])


def _faults(out: Path, expected: str) -> list[str]:
    """Which laws the finished run in `out` breaks."""
    faults = []
    if _hash(out) != expected:
        faults.append("the final arrays differ from the unbroken run's")
    if left := [path.name for path in out.rglob(".*")] + [path.name for path in out.glob("run.db-*")]:
        faults.append(f"temporary files are left: {left}")
    with RunStore.open(out) as store:
        numbers = [entry.number for entry in store.rounds()]
        if numbers != list(range(5)):
            faults.append(f"rounds in the store: {numbers}")
        for phase in ("train", "evaluate"):
            parts = [(row.round, row.client) for row in store.client_rounds(phase)]
            if parts != [(number, client) for number in range(1, 5) for client in range(3)]:
                faults.append(f"parts of clients in the store, {phase}: {parts}")
    with contextlib.closing(sqlite3.connect(out / DATABASE)) as connection:
        if (check := connection.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            faults.append(f"run.db: {check}")
    return faults


def main() -> int:
    """Run schedules until enough kills are done; 1 if a law was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at least 1")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no schedule after this time")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name))
        known = {strategy: soak.unbroken(strategy) for strategy in _STRATEGIES}
        number = 0
        while soak.kills < arguments.kills and time.perf_counter() - began < arguments.seconds:
            strategy = _STRATEGIES[number % len(_STRATEGIES)]
            soak.schedule(number, strategy, *known[strategy], min(_KILLS, arguments.kills - soak.kills))
            number += 1
        for fault in soak.faults:
            sys.stdout.write(f"{fault}\n")
        sys.stdout.write(f"{number} runs, {soak.kills} kills, {len(soak.faults)} laws broken\n")
    return 1 if soak.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
