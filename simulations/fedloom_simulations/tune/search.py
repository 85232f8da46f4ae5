"""The search: trials handed to worker processes, their outcomes told to the study."""

import argparse
import sys
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import TrialState

from fedloom_edge.cli import INTERRUPTED
from fedloom_edge.errors import RunError
from fedloom_simulations.tune.plan import SearchPlan, plan_search
from fedloom_simulations.tune.study import locked, next_trial, open_study
from fedloom_simulations.tune.summary import Comparison, TrialTable, write_summary
from fedloom_simulations.tune.trial import Outcome, run_final, run_trial
from fedloom_simulations.tune.workers import Workers

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_SEEDS = 3  # of the comparison at the end
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def search(options: argparse.Namespace) -> int:
    """Run the trials that are left and write down what they say; returns the exit code."""
    plan = plan_search(options)
    with locked(plan):
        study = open_study(plan)
        over = [trial.number for trial in study.trials if trial.state in _OVER]
        pending = [number for number in range(plan.trials) if number not in over]
        if options.search == "grid" and plan.trials < len(plan.grid()):
            sys.stdout.write(f"{plan.trials} of {len(plan.grid())} combinations\n")
        if over and pending:
            sys.stdout.write(f"{plan.folder}: {len(over)} trials are done, {len(pending)} are left\n")
        code, final = 0, None
        try:
            with Workers(plan) as workers:
                _run(plan, study, workers, pending)
                if _completed(study) and study.best_trial.number:
                    final = _compare(plan, study, workers)
        except KeyboardInterrupt:
            code = INTERRUPTED
            sys.stderr.write("fedloom: interrupted; the same command goes on with the search\n")
        if _completed(study):
            sys.stdout.write(write_summary(plan, study, final))
        elif not code:
            reasons = {trial.user_attrs.get("reason") for trial in study.trials}
            raise RunError(f"no trial of {plan.folder} was completed: {'; '.join(map(str, reasons))}")
    return code


def _run(plan: SearchPlan, study: optuna.Study, workers: Workers, pending: list[int]) -> None:
    """Keep `--jobs` processes busy until no trial is left."""

    def start(process: ProcessPoolExecutor, number: int) -> Future[Outcome]:
        next_trial(plan, study, number)
        return process.submit(run_trial, number)

    def count_death(number: int) -> int:
        deaths = int(study.trials[number].user_attrs.get("deaths", 0)) + 1
        _note(study, number, deaths=deaths)
        return deaths

    with TrialTable(plan) as table:
        for number, outcome in workers.run(pending, start, count_death):
            _tell(study, number, outcome)
            table.add(study, number)


def _compare(plan: SearchPlan, study: optuna.Study, workers: Workers) -> Comparison:
    """The best trial's settings against the defaults, each trained anew with all clients and several seeds.

    The trials' own figures flatter the best of them, since it was chosen by them.
    """
    sides = study.best_trial, study.trials[0]
    seeds = range(plan.options.seed, plan.options.seed + _SEEDS)
    runs = [(side, seed) for side in (0, 1) for seed in seeds]
    deaths: Counter[tuple[int, int]] = Counter()

    def start(process: ProcessPoolExecutor, run: tuple[int, int]) -> Future[Outcome]:
        trial, seed = sides[run[0]], run[1]
        return process.submit(run_final, plan.final_run(trial.number, trial.params, seed))

    def count_death(run: tuple[int, int]) -> int:
        deaths[run] += 1
        return deaths[run]

    sys.stdout.write("trained with all clients, measured on the held-out test set:\n")
    outcomes = {}
    for run, outcome in workers.run(runs.copy(), start, count_death):
        outcomes[run] = outcome
        sys.stdout.write(f"{sides[run[0]].number:>5}  seed {run[1]:>3}  {outcome.said}\n")
        sys.stdout.flush()
    ours, theirs = ([outcomes[side, seed] for seed in seeds] for side in (0, 1))
    return Comparison(list(seeds), ours, theirs)


def _completed(study: optuna.Study) -> bool:
    return any(trial.state == TrialState.COMPLETE for trial in study.trials)


def _tell(study: optuna.Study, number: int, outcome: Outcome) -> None:
    _note(study, number, **asdict(outcome))
    # A pruned trial's figure is its last report; a failed one has none.
    study.tell(number, outcome.value if outcome.state == "complete" else None, state=_STATES[outcome.state])


def _note(study: optuna.Study, number: int, **attributes: Any) -> None:
    for name, value in attributes.items():
        study._storage.set_trial_user_attr(study.trials[number]._trial_id, name, value)
