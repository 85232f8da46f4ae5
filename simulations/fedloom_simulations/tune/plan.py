"""What a search is to do, checked before the first trial."""

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedloom_client.loading import load_task
from fedloom_client.space import Space, Value, check_space, grid, space_around
from fedloom_client.task import Task
from fedloom_edge.config import override, parse_settings
from fedloom_edge.errors import InputError
from fedloom_server.strategies import default_options
from fedloom_simulations import simulate
from fedloom_simulations.setup import prepare_run


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search: the task's space, the trial that all others are measured against, and how many."""

    task: Task
    space: Space
    default: dict[str, Value]
    options: argparse.Namespace
    trials: int
    folder: Path

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change when the search goes on."""
        names = ("search", "clients", "rounds", "strategy", "partition", "seed", "data", "settings", "task")
        kept = {name: getattr(self.options, name) for name in names}
        return {
            **{name: str(value) if isinstance(value, Path) else value for name, value in kept.items()},
            "space": {name: str(dimension) for name, dimension in self.space.items()},
        }

    def trial_options(self, slot: int, values: dict[str, Any]) -> argparse.Namespace:
        """The options of `fedloom simulate` that run a trial."""
        parser = argparse.ArgumentParser()
        simulate.add_arguments(parser)
        options = parser.parse_args([self.options.task])
        for name in ("clients", "rounds", "strategy", "partition", "seed", "data"):
            setattr(options, name, getattr(self.options, name))
        options.settings = [*self.options.settings, *(f"{name}={value}" for name, value in values.items())]
        options.workers = 1 if self.options.jobs > 1 else 0  # trials side by side fill the cores
        options.out = self.run_folder(slot)
        return options

    def run_folder(self, slot: int) -> Path:
        """Where the run of a trial is."""
        return self.folder / "trials" / f"{slot:04d}"

    def grid(self) -> list[dict[str, Value]]:
        """The combinations of a grid search, the defaults' first."""
        return [self.default, *(values for values in grid(self.space) if not self._is_default(values))]

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
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    task = load_task(options.task)
    settings = parse_settings(options.settings, simulate.SECTIONS)
    training = override(task.training, settings["training"], "training")
    space = {
        name: dimension
        for name, dimension in (task.space or space_around(training)).items()
        if name not in {setting.partition("=")[0] for setting in options.settings}  # the user has fixed it
    }
    if not space:
        raise InputError("--set fixes every setting of the task's space; leave one of them open")
    check_space(space)
    known = {f"training.{name}": value for name, value in asdict(training).items()}
    plan = SearchPlan(
        task=task,
        space=space,
        default={},
        options=options,
        trials=options.trials,
        folder=options.out or Path("runs") / f"tune-{task.name}",
    )
    prepare_run(plan.trial_options(0, {}), resume=True)  # raises what is wrong with the rest
    known |= {f"strategy.{name}": value for name, value in default_options(options.strategy).items()}
    for name, dimension in space.items():
        if name not in known:
            raise InputError(
                f"space {name}: neither training nor strategy {options.strategy} has that setting"
            )
        if not dimension.holds(known[name]):
            raise InputError(f"space {name}: {dimension} leaves out the default {known[name]}; let it in")
    plan.default.update({name: known[name] for name in space})
    return plan
