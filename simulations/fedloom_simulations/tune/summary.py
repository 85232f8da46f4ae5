"""What a search says: a line a trial, how the best compares with the defaults, and files of both."""

import json
import math
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from fedloom_edge.files import write_atomic
from fedloom_server.report.progress import bar_under
from fedloom_simulations.tune.picture import draw_search
from fedloom_simulations.tune.plan import SearchPlan
from fedloom_simulations.tune.trial import COSTS, Outcome


class TrialTable:
    """Prints a row a trial as it ends, under a bar where there is a terminal."""

    def __init__(self, plan: SearchPlan) -> None:
        self._plan = plan
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._progress = bar_under(self._console, MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = self._progress.add_task("trials", total=float(plan.trials))

    def __enter__(self) -> Self:
        self._console.print(
            f"{'trial':>5}  {'state':>8}  {self._plan.task.metric:>8}  {'rounds':>6}  settings"
        )
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, study: optuna.Study, number: int) -> None:
        """Print the row of a trial that has ended."""
        trials = study.trials
        trial, said = trials[number], trials[number].user_attrs
        value = "-" if said["value"] is None else f"{said['value']:.4f}"
        note = said["reason"] or "  ".join(f"{k}={_text(v)}" for k, v in trial.params.items())
        self._console.print(f"{number:>5}  {said['state']:>8}  {value:>8}  {said['rounds']:>6}  {note}")
        self._progress.update(self._bar, completed=sum(trial.state.is_finished() for trial in trials))


@dataclass(frozen=True)
class Comparison:
    """The best trial's settings and the defaults on the held-out test set, a run of each for each seed."""

    seeds: list[int]
    best: list[Outcome]
    default: list[Outcome]

    @property
    def cost(self) -> dict[str, Any]:
        """Of all runs together."""
        return {name: sum(getattr(run, name) for run in (*self.best, *self.default)) for name in COSTS}

    def verdict(self, metric: str) -> str:
        """What a person should think of the best trial's settings."""
        if len(_values(self.best)) + len(_values(self.default)) < 2 * len(self.seeds):
            return "a run failed, so that the two cannot be compared: keep the defaults"
        gains = np.subtract(_values(self.best), _values(self.default)) * (1 if metric == "accuracy" else -1)
        if gains.mean() <= 0:
            return "the best trial does not beat the defaults: keep them"
        if (gains > 0).all():
            return "the best trial beats the defaults with every seed"
        return "the best trial beats the defaults on average, but not with every seed: it may be chance"


def write_summary(plan: SearchPlan, study: optuna.Study, final: Comparison | None) -> str:
    """Write best.toml, tune.json and tune.png; returns what a person should read of them."""
    trials = [trial for trial in study.trials if trial.state.is_finished()]
    best, default = study.best_trial, study.trials[0]
    costs = {name: sum(trial.user_attrs[name] for trial in trials) for name in COSTS}
    summary = {
        "task": plan.task.name,
        **plan.identity,
        "metric": plan.task.metric,
        "best": best.number,
        "default": default.number if default.state.is_finished() else None,
        "cost": costs,
        "final_cost": final.cost if final else None,
        "test": asdict(final) if final else None,
        "trials": [{"number": t.number, "settings": t.params, **t.user_attrs} for t in trials],
    }
    write_atomic(plan.folder / "tune.json", json.dumps(summary, indent=2) + "\n")
    write_atomic(plan.folder / "best.toml", _toml(plan, best))
    draw_search(plan, study, plan.folder / "tune.png")
    return "\n".join([*_words(plan, best, default, costs), *_final_words(plan, final)]) + "\n"


def _words(plan: SearchPlan, best: FrozenTrial, default: FrozenTrial, costs: dict[str, Any]) -> list[str]:
    metric = plan.task.metric
    return [
        f"searched with {_cost(costs)}",
        f"best: trial {best.number}, {metric} {_figure(best)} on {plan.judges}; defaults: {_figure(default)}",
        *(["no trial beats the defaults: keep them"] if best.number == default.number else []),
    ]


def _final_words(plan: SearchPlan, final: Comparison | None) -> list[str]:
    names = "best.toml (for --config), tune.json, tune.png, study.db, trials/"
    if final is None:
        return [f"{plan.folder}: {names}"]
    best, default = (_mean(runs) for runs in (final.best, final.default))
    return [
        f"compared with {_cost(final.cost)}",
        f"held-out test set, mean of {len(final.seeds)} seeds: best {best}, defaults {default}; "
        + final.verdict(plan.task.metric),
        f"{plan.folder}: {names}, final/",
    ]


def _cost(costs: dict[str, Any]) -> str:
    return (
        f"{costs['rounds']:,} rounds, {costs['samples']:,} samples, {costs['bytes'] / 1e6:,.1f} MB and "
        f"{costs['device_seconds']:,.1f} device seconds"
    )


def _values(runs: list[Outcome]) -> list[float]:
    return [run.value for run in runs if run.value is not None]


def _mean(runs: list[Outcome]) -> str:
    values = _values(runs)
    return f"{np.mean(values):.5f}" if len(values) == len(runs) else "-"


def _figure(trial: FrozenTrial) -> str:
    value = trial.user_attrs.get("value")  # none of a trial that is not over, or has failed
    return "-" if value is None else f"{value:.4f}"


def _toml(plan: SearchPlan, best: FrozenTrial) -> str:
    """What the best trial was run with, as a file for --config."""
    options = plan.options
    given = {
        "clients": plan.task.clients if options.clients is None else options.clients,
        "partition": options.partition or plan.task.partition,
        "rounds": options.rounds,
        "seed": options.seed,
        **({"data": str(options.data.absolute())} if options.data else {}),
    }
    fixed = {name: _value(text) for name, _, text in (setting.partition("=") for setting in options.settings)}
    tables: dict[str, list[str]] = {}
    for name, value in {"strategy.name": options.strategy, **fixed, **best.params}.items():
        table, _, key = name.partition(".")
        tables.setdefault(table, []).append(f"{key} = {json.dumps(value)}")
    lines = [
        f"# fedloom tune {options.task}: trial {best.number}, {plan.task.metric} "
        f"{_figure(best)} on {plan.judges}",
        *(f"{name} = {json.dumps(value)}" for name, value in given.items()),
    ]
    for table, entries in tables.items():
        lines += [f"[{table}]", *entries]
    return "\n".join(lines) + "\n"


def _value(text: str) -> int | float | str:
    """The text of `--set` as what a person would write in a file."""
    for kind in (int, float):
        with suppress(ValueError):
            if math.isfinite(value := kind(text)):
                return value
    return text


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
