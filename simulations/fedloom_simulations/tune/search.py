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
from fedloom_simulations.tune.summary import Comparison, TrialTable, write_summary
from fedloom_simulations.tune.trial import Outcome, begin_worker, run_final, run_trial

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_SEEDS = 3  # of the comparison at the end
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
        code, final = 0, None
        try:
            with _workers(plan) as pool:
                _run(plan, study, pool, pending, total)
                if _completed(study) and study.best_trial.number:
                    final = _compare(plan, study, pool)
        except KeyboardInterrupt:
            code = INTERRUPTED
            sys.stderr.write("fedloom: interrupted; the same command goes on with the search\n")
        if _completed(study):
            sys.stdout.write(write_summary(plan, study, final))
        elif not code:
            reasons = {trial.user_attrs.get("reason") for trial in study.trials}
            raise RunError(f"no trial of {plan.folder} was completed: {'; '.join(map(str, reasons))}")
    return code


def _run(
    plan: SearchPlan, study: optuna.Study, pool: ProcessPoolExecutor, pending: list[int], total: int
) -> None:
    """Keep `--jobs` processes busy until no trial is left."""
    running: dict[Future[Outcome], int] = {}
    with TrialTable(plan, total) as table:
        while pending or running:
            while pending and len(running) < plan.options.jobs:
                number = pending.pop(0)
                next_trial(plan, study, number)
                running[pool.submit(run_trial, number)] = number
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                number = running.pop(future)
                _tell(study, number, _result(future))
                table.add(study, number)


def _compare(plan: SearchPlan, study: optuna.Study, pool: ProcessPoolExecutor) -> Comparison:
    """The best trial's settings against the defaults, each trained anew with all clients and several seeds.

    The trials' own figures flatter the best of them, since it was chosen by them.
    """
    sides = study.best_trial, study.trials[0]
    seeds = range(plan.options.seed, plan.options.seed + _SEEDS)
    names = [(trial, seed) for trial in sides for seed in seeds]
    futures = [
        pool.submit(run_final, plan.final_run(trial.number, trial.params, seed)) for trial, seed in names
    ]
    sys.stdout.write("trained with all clients, measured on the held-out test set:\n")
    outcomes = []
    for (trial, seed), future in zip(names, futures, strict=True):
        outcomes.append(_result(future))
        sys.stdout.write(f"{trial.number:>5}  seed {seed:>3}  {outcomes[-1].said}\n")
        sys.stdout.flush()
    return Comparison(list(seeds), outcomes[:_SEEDS], outcomes[_SEEDS:])


def _workers(plan: SearchPlan) -> ProcessPoolExecutor:
    jobs = plan.options.jobs
    given = plan.options, max((os.cpu_count() or 1) // jobs, 1)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), begin_worker, given)


def _result(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        raise RunError(
            "a trial's process was killed (out of memory?); the same command goes on, "
            "perhaps with fewer --jobs"
        ) from None


def _completed(study: optuna.Study) -> bool:
    return any(trial.state == TrialState.COMPLETE for trial in study.trials)


def _tell(study: optuna.Study, number: int, outcome: Outcome) -> None:
    trial = study.trials[number]
    for name, value in asdict(outcome).items():
        study._storage.set_trial_user_attr(trial._trial_id, name, value)
    # A pruned trial's figure is its last report; a failed one has none.
    study.tell(number, outcome.value if outcome.state == "complete" else None, state=_STATES[outcome.state])
