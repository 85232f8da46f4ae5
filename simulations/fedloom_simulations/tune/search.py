"""The search: trials handed to worker processes, their outcomes told to the study."""

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict

import optuna
from optuna.trial import TrialState

from fedloom_edge.cli import INTERRUPTED
from fedloom_edge.errors import RunError
from fedloom_simulations.tune.plan import SearchPlan, plan_search
from fedloom_simulations.tune.study import locked, next_trial, open_study
from fedloom_simulations.tune.summary import TrialTable, write_summary
from fedloom_simulations.tune.trial import Outcome, begin_worker, run_trial

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def search(options: argparse.Namespace) -> int:
    """Run the trials that are left and write down what they say; returns the exit code."""
    plan = plan_search(options)
    with locked(plan):
        study = open_study(plan)
        total = min(plan.trials, len(plan.grid())) if options.search == "grid" else plan.trials
        over = [trial.number for trial in study.trials if trial.state in _OVER]
        pending = [number for number in range(total) if number not in over]
        if over and pending:
            sys.stdout.write(f"{plan.folder}: {len(over)} trials are done, {len(pending)} are left\n")
        code = 0
        try:
            _run(plan, study, pending, total)
        except KeyboardInterrupt:
            code = INTERRUPTED
            sys.stderr.write("fedloom: interrupted; the same command goes on with the search\n")
        if any(trial.state == TrialState.COMPLETE for trial in study.trials):
            sys.stdout.write(write_summary(plan, study))
        elif not code:
            reasons = {trial.user_attrs.get("reason") for trial in study.trials}
            raise RunError(f"no trial of {plan.folder} was completed: {'; '.join(map(str, reasons))}")
    return code


def _run(plan: SearchPlan, study: optuna.Study, pending: list[int], total: int) -> None:
    """Keep `--jobs` processes busy until no trial is left."""
    jobs = min(plan.options.jobs, max(len(pending), 1))
    workers = plan.options, max((os.cpu_count() or 1) // jobs, 1)
    running: dict[Future[Outcome], int] = {}
    with (
        TrialTable(plan, total) as table,
        ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), begin_worker, workers) as pool,
    ):
        while pending or running:
            while pending and len(running) < jobs:
                number = pending.pop(0)
                next_trial(plan, study, number)
                running[pool.submit(run_trial, number)] = number
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                number = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    raise RunError(
                        "a trial's process was killed (out of memory?); the same command goes on, "
                        "perhaps with fewer --jobs"
                    ) from None
                _tell(study, number, outcome)
                table.add(study, number)


def _tell(study: optuna.Study, number: int, outcome: Outcome) -> None:
    trial = study.trials[number]
    for name, value in asdict(outcome).items():
        study._storage.set_trial_user_attr(trial._trial_id, name, value)
    # A pruned trial's figure is its last report; a failed one has none.
    study.tell(number, outcome.value if outcome.state == "complete" else None, state=_STATES[outcome.state])
