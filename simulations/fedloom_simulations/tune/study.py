"""The study: an Optuna study in a SQLite file, asked and told by one process.

Optuna: Akiba et al. (2019), https://doi.org/10.1145/3292500.3330701; the tree-structured Parzen
estimator: Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from fedloom_client.seeds import derive_seed
from fedloom_client.space import Choice, Whole
from fedloom_edge.errors import InputError
from fedloom_simulations.tune.plan import SearchPlan

DATABASE = "study.db"
_NAME = "fedloom"
_STARTUP = 5  # trials before one is held against the others


@contextmanager
def locked(plan: SearchPlan) -> Iterator[None]:
    """Hold the search's folder for this process; a crash lets it go.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    try:
        (plan.folder / "trials").mkdir(parents=True, exist_ok=True)
        handle = os.open(plan.folder / "trials", os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"--out {plan.folder}: {error.strerror}; give a folder that can be written"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"{plan.folder}: another process is at work on this search") from None
    finally:
        os.close(handle)


def open_study(plan: SearchPlan) -> optuna.Study:
    """The study of the plan's folder, made if there is none.

    Raises:
        InputError: the folder has a search for something else, or one that cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=_url(plan),
            study_name=_NAME,
            direction="maximize" if plan.task.metric == "accuracy" else "minimize",
            load_if_exists=True,
        )
        study.get_trials()  # reads every table
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(
            f"{plan.folder / DATABASE} is damaged; choose another folder or remove it"
        ) from error
    identity = json.loads(json.dumps(plan.identity))
    before: dict[str, Any] = study.user_attrs.get("identity", identity)
    changed = [name for name, value in identity.items() if before.get(name) != value]
    if changed:
        raise InputError(
            f"--out {plan.folder} has a search with another {', '.join(changed)} "
            f"({changed[0]} was {before.get(changed[0])}); choose another folder"
        )
    study.set_user_attr("identity", identity)
    return study


def next_trial(plan: SearchPlan, study: optuna.Study, number: int) -> None:
    """Settle the values of trial `number`, which may have been begun before a crash."""
    if number == len(study.trials) and (number == 0 or plan.options.search == "grid"):
        study.enqueue_trial(plan.grid()[number])
    _prepare(plan, study, number)
    trials = study.trials
    if number == len(trials) or trials[number].state == TrialState.WAITING:
        study.ask()
    _suggest(plan, _trial(study, number))


def open_trial(plan: SearchPlan, number: int) -> optuna.Trial:
    """Trial `number` in a process of its own, with its values."""
    study = optuna.load_study(study_name=_NAME, storage=_url(plan))
    _prepare(plan, study, number)
    return _trial(study, number)


def _url(plan: SearchPlan) -> str:
    return f"sqlite:///{(plan.folder / DATABASE).absolute()}"


def _prepare(plan: SearchPlan, study: optuna.Study, number: int) -> None:
    """Draws depend on the seed and the trial alone, so that a search goes on as if never broken off."""
    seed = derive_seed(plan.options.seed, "tune", number) % 2**32
    if plan.options.search == "bayes":
        study.sampler = optuna.samplers.TPESampler(seed=seed)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    warmup = 0 if plan.folds else max(plan.options.rounds // 3, 1)  # steps: folds, or rounds
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=warmup)


def _trial(study: optuna.Study, number: int) -> optuna.Trial:
    return optuna.Trial(study, study.trials[number]._trial_id)


def _suggest(plan: SearchPlan, trial: optuna.Trial) -> None:
    study, frozen = trial.study, trial.study.trials[trial.number]
    for name, dimension in plan.space.items():
        if name in frozen.params:
            # Settled before a crash: drawn anew, so that the next draw is that of an unbroken search.
            if not frozen.distributions[name].single():
                study.sampler.sample_independent(study, frozen, name, frozen.distributions[name])
        elif isinstance(dimension, Choice):
            trial.suggest_categorical(name, dimension.values)
        elif isinstance(dimension, Whole):
            trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
        else:
            trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
