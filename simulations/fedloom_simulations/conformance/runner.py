"""Runs entries, and goes on with what an earlier call left behind."""

import argparse
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from fedloom_edge.errors import FedloomError
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_simulations.conformance.entry import Entry, Run
from fedloom_simulations.options import add_arguments
from fedloom_simulations.session import run_session
from fedloom_simulations.setup import prepare_run

TASKS = Path(__file__).with_name("tasks.py")


@dataclass(frozen=True)
class Verdict:
    """An entry's figures, one a seed, and whether their mean lies in the interval."""

    entry: Entry
    figures: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.figures)

    @property
    def inside(self) -> bool:
        """Whether what was published was come to."""
        low, high = self.entry.interval
        return low <= self.mean <= high


def judge(entry: Entry, seeds: Sequence[int], folder: Path) -> Verdict:
    """Run an entry with each seed; the runs are kept under `folder`, and those that are there not repeated.

    Raises:
        FedloomError: a run failed.
    """
    figures = []
    for seed in seeds:
        runs = {
            name: rounds_of(run, seed, _place(folder, entry, name, seed)) for name, run in entry.runs.items()
        }
        figures.append(entry.figure(runs))
    return Verdict(entry, tuple(figures))


def kept(entry: Entry, seeds: Sequence[int], folder: Path) -> Verdict | None:
    """What earlier calls have come to, of the seeds whose runs are all done; None for no such seed."""
    done = [
        seed for seed in seeds if all(_finished(_place(folder, entry, name, seed)) for name in entry.runs)
    ]
    return judge(entry, done, folder) if done else None


def _place(folder: Path, entry: Entry, name: str, seed: int) -> Path:
    return folder / entry.name / f"{name}-{entry.runs[name].rounds}-{seed}"


def rounds_of(run: Run, seed: int, folder: Path) -> Sequence[Round]:
    """The rounds of a run in `folder`, which is begun, or gone on with, or done.

    Raises:
        FedloomError: it failed.
    """
    began = (folder / DATABASE).exists()
    if not _finished(folder):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        flags = [
            f"{TASKS}:{run.task}",
            "--rounds",
            str(run.rounds),
            "--seed",
            str(seed),
            "--out",
            str(folder),
        ]
        setup = prepare_run(parser.parse_args([*flags, *run.options]), resume=began)
        recipe = replace(setup.recipe, validation=run.validation)
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            code = run_session(replace(setup, recipe=recipe, shards=recipe.open()), resume=began)
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise FedloomError(f"{folder}: {quiet.getvalue().strip()}")
    with RunStore.open(folder) as store:
        return store.rounds()


def _finished(folder: Path) -> bool:
    if not (folder / DATABASE).exists():
        return False
    with RunStore.open(folder) as store:
        return bool(store.facts().get("status") == "finished")
