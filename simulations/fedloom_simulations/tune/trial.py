"""One trial: runs like any other, that end early when they fall behind the other trials'."""

import argparse
import contextlib
import io
import math
import multiprocessing
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from fedloom_edge.errors import FedloomError
from fedloom_server.rounds.commands import Stopped
from fedloom_server.rounds.plan import Plan
from fedloom_server.store.rows import ClientRound, Round
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_simulations.session import run_session
from fedloom_simulations.setup import prepare_run
from fedloom_simulations.tune.plan import SearchPlan, plan_search
from fedloom_simulations.tune.study import open_trial

COSTS = ("rounds", "samples", "bytes", "device_seconds")
_PRUNED = "pruned"


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        state: `complete`, `pruned`, or `failed` with a reason.
        value: the standard metric after the last round, on what judges the trial.
        rounds: how many there were.
        samples: examples that the clients computed a step with.
        bytes: what travelled, both ways.
        device_seconds: the time that the clients trained, all together.
    """

    state: str
    value: float | None = None
    rounds: int = 0
    samples: int = 0
    bytes: int = 0
    device_seconds: float = 0.0
    reason: str = ""

    @property
    def said(self) -> str:
        """The figure, or why there is none."""
        return self.reason if self.value is None else f"{self.value:.5f}"


class Pruning:
    """Tells the study the trial's figure as it goes and ends the run when the study says so.

    A trial of one run is held against the others after each round. One of folds is after each fold but
    the first, by the mean over those so far: one alone would prune by the luck of whom it holds out.
    """

    def __init__(self, trial: optuna.Trial, plan: SearchPlan) -> None:
        self._trial = trial
        self._rounds = plan.options.rounds
        self._folds = plan.folds
        self._reported = set(trial.study.trials[trial.number].intermediate_values)
        self._sizes: list[int] = []
        self._figures: list[float] = []

    @property
    def value(self) -> float | None:
        """The mean over the samples that the runs were measured on."""
        return float(np.average(self._figures, weights=self._sizes)) if self._figures else None

    def begin(self, size: int) -> None:
        """The next run begins, which is measured on `size` samples."""
        self._sizes = [*self._sizes[: len(self._figures)], size]

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Nothing: a round decides."""

    def round_done(self, entry: Round) -> None:
        """Report the round; `Stopped` if the trial is hopeless."""
        self.report(entry)
        last = max(self._folds, 1), self._rounds
        if (len(self._sizes), entry.number) != last and self._step(entry) and self._trial.should_prune():
            raise Stopped(f"{_PRUNED} after round {entry.number}")

    def report(self, entry: Round) -> None:
        """Take a round's figure, and tell the study what it completes, once."""
        figure = entry.metric if self._folds else entry.federated_metric
        if entry.number == 0 or figure is None:
            return
        self._figures[len(self._sizes) - 1 :] = [figure]
        step = self._step(entry)
        if step and step not in self._reported and self.value is not None:
            self._reported.add(step)
            self._trial.report(self.value, step)

    def _step(self, entry: Round) -> int:
        """The study's step that a round completes; 0 for none."""
        fold = len(self._sizes)
        if not self._folds:
            return entry.number
        return fold if fold > 1 and entry.number == self._rounds else 0


_plan: SearchPlan  # of a worker process


def begin_worker(options: argparse.Namespace, threads: int) -> None:
    """Prepare a process for trials: its share of the cores, and an end when the search's process ends."""
    global _plan
    import torch

    torch.set_num_threads(threads)
    _plan = plan_search(options)  # anew, because a task of a user's file cannot be pickled
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def run_trial(number: int) -> Outcome:
    """Run trial `number` in a worker process, or go on with it where it was broken off.

    Raises:
        KeyboardInterrupt: the user stopped it; it can be gone on with.
    """
    trial = open_trial(_plan, number)
    pruning = Pruning(trial, _plan)
    total = Outcome("complete")
    for options in _plan.runs(number, trial.params):
        run = _run(options, pruning)
        costs = {name: getattr(total, name) + getattr(run, name) for name in COSTS}
        total = replace(run, value=pruning.value if run.state != "failed" else None, **costs)
        if run.state != "complete":
            break
    return total


def run_final(options: argparse.Namespace) -> Outcome:
    """Run settings with all clients in a worker process; `value` is the held-out test set's metric.

    Raises:
        KeyboardInterrupt: the user stopped it; it can be gone on with.
    """
    return _run(options, None)


def _run(options: argparse.Namespace, pruning: Pruning | None) -> Outcome:
    """Begin a run, or go on with it, unless it is over."""
    resume = (options.out / DATABASE).exists()
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            setup = prepare_run(options, resume=resume)
            if pruning is not None:
                setup = replace(setup, plan=_without_baselines(setup.plan), watchers=(pruning,))
                pruning.begin(len(setup.shards.data.test) if options.fold else 1)
            if not (resume and _over(options.out, pruning)):
                run_session(setup, resume=resume)
        except FedloomError as error:
            return Outcome("failed", reason=str(error))
    with RunStore.open(options.out) as store:
        return _outcome(store)


def _without_baselines(plan: Plan) -> Plan:
    """Trials are held against each other, and a baseline may cost as much as a few rounds."""
    return replace(plan, task=replace(plan.task, baselines={}))


def _over(folder: Path, pruning: Pruning | None) -> bool:
    """Whether a run that was begun is over, after the study has heard of all its rounds."""
    with RunStore.open(folder) as store:
        facts, rounds = store.facts(), store.rounds()
    if pruning is not None:
        for entry in rounds:
            pruning.report(entry)
    return facts.get("status") == "finished" or str(facts.get("reason")).startswith(_PRUNED)


def _outcome(store: RunStore) -> Outcome:
    facts, rounds = store.facts(), store.rounds()
    status, reason = facts["status"], str(facts["reason"])
    state = {"finished": "complete", "interrupted": "pruned"}.get(status, "failed")
    if state == "pruned" and not reason.startswith(_PRUNED):
        raise KeyboardInterrupt
    trained = [row for row in store.client_rounds("train") if row.status == "ok"]
    costs: dict[str, Any] = {
        "rounds": rounds[-1].number if rounds else 0,
        "samples": sum(_samples(row, facts["training"]) for row in trained),
        "bytes": sum(entry.bytes_up + entry.bytes_down for entry in rounds),
        "device_seconds": sum(row.seconds or 0.0 for row in trained),
    }
    if state == "failed" or not rounds:
        return Outcome("failed", reason=reason, **costs)
    return Outcome(state, rounds[-1].metric, **costs)


def _samples(row: ClientRound, training: Mapping[str, Any]) -> int:
    """Examples that a client computed a step with: a bound of steps, or patience, may end its round early."""
    epochs = row.metrics.get("epochs", training["training.epochs"]) * (row.examples or 0)
    steps = row.metrics.get("steps", math.inf) * training["training.batch_size"]
    return int(min(steps, epochs))
