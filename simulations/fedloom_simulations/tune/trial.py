"""One trial: a run like any other, that ends early when it falls behind the others."""

import argparse
import contextlib
import io
import multiprocessing
import os
import threading
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Any

import optuna

from fedloom_edge.errors import FedloomError
from fedloom_server.commands import Stopped
from fedloom_server.rows import Round
from fedloom_server.store import DATABASE, RunStore
from fedloom_simulations.session import run_session
from fedloom_simulations.setup import prepare_run
from fedloom_simulations.tune.plan import SearchPlan, plan_search
from fedloom_simulations.tune.study import open_trial


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        state: `complete`, `pruned`, or `failed` with a reason.
        value: the standard metric on the clients' validation parts after the last round.
        test: the same on the held-out test set; no decision looks at it.
        rounds: how many there were.
        samples: examples that the clients computed a step with.
        bytes: what travelled, both ways.
        device_seconds: the time that the clients trained, all together.
    """

    state: str
    value: float | None = None
    test: float | None = None
    rounds: int = 0
    samples: int = 0
    bytes: int = 0
    device_seconds: float = 0.0
    reason: str = ""


class Pruning:
    """Tells the study each round's figure and ends the run when the study says so."""

    def __init__(self, trial: optuna.Trial, rounds: int) -> None:
        self._trial = trial
        self._rounds = rounds
        self._reported = set(trial.study.trials[trial.number].intermediate_values)

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Nothing: a round decides."""

    def round_done(self, entry: Round) -> None:
        """Report the round; `Stopped` if the trial is hopeless."""
        self.report(entry)
        if entry.number < self._rounds and self._trial.should_prune():
            raise Stopped(f"pruned after round {entry.number}")

    def report(self, entry: Round) -> None:
        """Tell the study a round's figure, once."""
        if entry.federated_metric is not None and entry.number not in self._reported:
            self._reported.add(entry.number)
            self._trial.report(entry.federated_metric, entry.number)


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
    plan = _plan
    trial = open_trial(plan, number)
    folder = plan.run_folder(number)
    resume = (folder / DATABASE).exists()
    pruning = Pruning(trial, plan.options.rounds)
    if resume:
        with RunStore.open(folder) as store:
            for entry in store.rounds():
                pruning.report(entry)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            setup = prepare_run(plan.trial_options(number, trial.params), resume=resume)
            run_session(replace(setup, watchers=(pruning,)), resume=resume)
        except FedloomError as error:
            return Outcome("failed", reason=str(error))
    with RunStore.open(folder) as store:
        return _outcome(store)


def _outcome(store: RunStore) -> Outcome:
    facts, rounds = store.facts(), store.rounds()
    status, reason = facts["status"], str(facts["reason"])
    state = {"finished": "complete", "interrupted": "pruned"}.get(status, "failed")
    if state == "pruned" and not reason.startswith("pruned"):
        raise KeyboardInterrupt
    trained = [row for row in store.client_rounds("train") if row.status == "ok"]
    epochs = int(facts["training"]["training.epochs"])
    costs: dict[str, Any] = {
        "rounds": rounds[-1].number if rounds else 0,
        "samples": epochs * sum(row.examples or 0 for row in trained),
        "bytes": sum(entry.bytes_up + entry.bytes_down for entry in rounds),
        "device_seconds": sum(row.seconds or 0.0 for row in trained),
    }
    if state == "failed" or not rounds:
        return Outcome("failed", reason=reason, **costs)
    return Outcome(state, rounds[-1].federated_metric, rounds[-1].metric, **costs)
