"""What a search is to do, checked before the first trial."""

import argparse
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_client.data.partition import Partition
from fedloom_client.data.shards import Shards
from fedloom_client.loading import load_task
from fedloom_client.seeds import generator
from fedloom_client.space import Space, Value, check_space, grid, space_around
from fedloom_client.task import Task
from fedloom_client.training import Training
from fedloom_edge.config import override, parse_settings
from fedloom_edge.errors import InputError
from fedloom_server.privacy.options import check_private_training
from fedloom_server.strategies.registry import default_options, make_strategy
from fedloom_simulations.folds import fold_count
from fedloom_simulations.options import SECTIONS, add_arguments
from fedloom_simulations.setup import Setup, prepare_run

_TRIALS = 20  # where nothing else is said


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search: the task's space, the trial that all others are measured against, and how many.

    Attributes:
        validate: `samples` or `clients`: what judges a trial.
        folds: runs of a trial, each of which holds other clients out; 0 for one run of all clients.
    """

    task: Task
    space: Space
    default: dict[str, Value]
    options: argparse.Namespace
    trials: int
    folder: Path
    validate: str = "samples"
    folds: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change when the search goes on."""
        names = ("search", "clients", "rounds", "strategy", "partition", "seed", "data", "settings", "task")
        kept = {name: getattr(self.options, name) for name in names}
        return {
            **{name: str(value) if isinstance(value, Path) else value for name, value in kept.items()},
            "validate": self.validate,
            "space": {name: str(dimension) for name, dimension in self.space.items()},
        }

    @property
    def judges(self) -> str:
        """What judges a trial, in words."""
        return "held-out clients" if self.validate == "clients" else "the clients' validation parts"

    def runs(self, number: int, values: dict[str, Any]) -> list[argparse.Namespace]:
        """The options of `fedloom simulate` for each run of a trial."""
        folder = self.folder / "trials" / f"{number:04d}"
        if not self.folds:
            return [self._run(values, folder)]
        return [self._run(values, folder / f"fold-{k}", fold=k) for k in range(1, self.folds + 1)]

    def final_run(self, number: int, values: dict[str, Any], seed: int) -> argparse.Namespace:
        """The options of the run that measures a trial's settings on the held-out test set."""
        return self._run(values, self.folder / "final" / f"{number:04d}-seed-{seed}", seed=seed)

    def _run(self, values: dict[str, Any], out: Path, **others: int) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        options = parser.parse_args([self.options.task])
        for name in ("clients", "rounds", "strategy", "partition", "seed", "data"):
            setattr(options, name, getattr(self.options, name))
        options.settings = [*self.options.settings, *(f"{name}={value}" for name, value in values.items())]
        options.workers = 1 if self.options.jobs > 1 else 0  # trials side by side fill the cores
        options.out = out
        vars(options).update(others)
        return options

    def grid(self) -> list[dict[str, Value]]:
        """The combinations of a grid search, the defaults' first, the others in an order of the seed's.

        So that a search of a part of them sees all of the space.
        """
        others = [values for values in grid(self.space) if not self._is_default(values)]
        order = generator(self.options.seed, "tune", "grid").permutation(len(others))
        return [self.default, *(others[place] for place in order)]

    def _is_default(self, values: dict[str, Value]) -> bool:
        return all(
            value == known if isinstance(value, str) or isinstance(known, str) else math.isclose(value, known)
            for value, known in zip(values.values(), self.default.values(), strict=True)
        )


def plan_search(options: argparse.Namespace) -> SearchPlan:
    """Check what the user gave.

    Raises:
        InputError: something is wrong; nothing has been written.
    """
    for name in ("trials", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: give at least 1")
    task = load_task(options.task)
    settings = parse_settings(options.settings, SECTIONS)
    training = override(task.training, settings["training"], "training")
    declared = task.space or space_around(training)
    check_space(declared)
    fixed = {setting.partition("=")[0] for setting in options.settings}  # by the user
    space = {name: dimension for name, dimension in declared.items() if name not in fixed}
    if not space:
        raise InputError("--set fixes every setting of the task's space; leave one of them open")
    plan = SearchPlan(
        task=task,
        space=space,
        default={},
        options=options,
        trials=options.trials or _TRIALS,
        folder=options.out or Path("runs") / f"tune-{task.name}",
    )
    setup = prepare_run(plan.runs(0, {})[0], resume=True)  # raises what is wrong with the rest
    if (options.validate or _natural_judge(setup.shards)) == "clients":
        plan = replace(plan, validate="clients", folds=fold_count(len(setup.shards)))
        prepare_run(plan.runs(0, {})[0], resume=True)
    plan = replace(plan, default=_defaults(plan, training))
    _check_points(plan, setup, settings)
    if options.search == "grid":
        combinations = len(plan.grid())
        plan = replace(plan, trials=min(options.trials or combinations, combinations))
    return plan


def _defaults(plan: SearchPlan, training: Training) -> dict[str, Value]:
    """The values of the first trial."""
    strategy = plan.options.strategy
    known = {f"training.{name}": value for name, value in asdict(training).items()}
    known |= {f"strategy.{name}": value for name, value in default_options(strategy).items()}
    for name, dimension in plan.space.items():
        if name not in known:
            raise InputError(f"space {name}: neither training nor strategy {strategy} has that setting")
        if not dimension.holds(known[name]):
            raise InputError(f"space {name}: {dimension} leaves out the default {known[name]}; let it in")
    return {name: known[name] for name in plan.space}


def _check_points(plan: SearchPlan, setup: Setup, settings: dict[str, dict[str, str]]) -> None:
    """Refuse a dimension with an end, a middle or a choice that no run takes.

    A value may need another dimension's (noise needs a clipping norm), so that each is tried beside the
    others' defaults, and beside the first and the last of their points.
    """
    points = {name: dimension.points() for name, dimension in plan.space.items()}
    others = [plan.default, *({name: some[end] for name, some in points.items()} for end in (0, -1))]
    for name, some in points.items():
        for value in some:
            problems = [_problem({**beside, name: value}, setup, settings) for beside in others]
            if None not in problems:
                raise InputError(f"space {name}: no run takes {value}: {problems[0]}")


def _problem(values: dict[str, Value], setup: Setup, settings: dict[str, dict[str, str]]) -> str | None:
    """What is wrong with a run of these values, if anything is."""
    given = {section: dict(known) for section, known in settings.items()}
    for name, value in values.items():
        section, _, key = name.partition(".")
        given[section][key] = str(value)
    try:
        training = override(setup.plan.task.training, given["training"], "training")
        strategy = make_strategy(
            setup.strategy_name,
            given["strategy"],
            clients=setup.plan.clients,
            lr=training.lr,
            optimizer=training.optimizer,
        )
        check_private_training(strategy, training, setup.recipe.partition)
    except InputError as error:
        return str(error)
    return None


def _natural_judge(shards: Shards) -> str:
    """What asks of a trial what the test set asks: of new people, or of new samples of the same ones."""
    owners, tested = shards.data.train.groups, shards.data.test.groups
    if Partition.parse(shards.recipe.partition).kind != "natural" or owners is None or tested is None:
        return "samples"
    return "samples" if np.isin(tested, owners).any() else "clients"
