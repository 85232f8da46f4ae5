"""What a search says: a line a trial, a file for --config, a table as JSON, and a picture."""

import json
import sys
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from fedloom_edge.files import write_atomic
from fedloom_server.progress import bar_under
from fedloom_simulations.tune.picture import draw_search
from fedloom_simulations.tune.plan import SearchPlan


class TrialTable:
    """Prints a row a trial as it ends, under a bar where there is a terminal."""

    def __init__(self, plan: SearchPlan, total: int) -> None:
        self._plan = plan
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._progress = bar_under(self._console, MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = self._progress.add_task("trials", total=float(total))

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


def write_summary(plan: SearchPlan, study: optuna.Study) -> str:
    """Write best.toml, tune.json and tune.png; returns what a person should read of them."""
    trials = [trial for trial in study.trials if trial.state.is_finished()]
    best, default = study.best_trial, trials[0]
    costs = {
        name: sum(trial.user_attrs[name] for trial in trials)
        for name in ("rounds", "samples", "bytes", "device_seconds")
    }
    summary = {
        "task": plan.task.name,
        **plan.identity,
        "metric": plan.task.metric,
        "best": best.number,
        "default": default.number,
        "cost": costs,
        "trials": [{"number": t.number, "settings": t.params, **t.user_attrs} for t in trials],
    }
    write_atomic(plan.folder / "tune.json", json.dumps(summary, indent=2) + "\n")
    write_atomic(plan.folder / "best.toml", _toml(plan, best))
    draw_search(plan, study, plan.folder / "tune.png")
    return _words(plan, best, default, costs)


def _words(plan: SearchPlan, best: FrozenTrial, default: FrozenTrial, costs: dict[str, Any]) -> str:
    metric = plan.task.metric
    lines = [
        f"searched with {costs['rounds']:,} rounds, {costs['samples']:,} samples, "
        f"{costs['bytes'] / 1e6:,.1f} MB and {costs['device_seconds']:,.1f} device seconds",
        f"best: trial {best.number}, {metric} {_figure(best, 'value')} on the clients' validation parts, "
        f"{_figure(best, 'test')} on the held-out test set",
        f"default: {metric} {_figure(default, 'value')} and {_figure(default, 'test')}",
    ]
    if best.number == default.number:
        lines.append("no trial beats the defaults: keep them")
    elif default.state == TrialState.COMPLETE and not _better(metric, best, default):
        lines.append("on the held-out test set the best trial does not beat the defaults: keep them")
    names = "best.toml (for --config), tune.json, tune.png, study.db, trials/"
    return "\n".join([*lines, f"{plan.folder}: {names}"]) + "\n"


def _better(metric: str, best: FrozenTrial, default: FrozenTrial) -> bool:
    one, other = best.user_attrs["test"], default.user_attrs["test"]
    return bool(one > other if metric == "accuracy" else one < other)


def _figure(trial: FrozenTrial, name: str) -> str:
    value = trial.user_attrs[name]
    return "-" if value is None else f"{value:.4f}"


def _toml(plan: SearchPlan, best: FrozenTrial) -> str:
    """The best trial's settings, and those that the user had fixed, as a file for --config."""
    fixed = dict(setting.partition("=")[::2] for setting in plan.options.settings)
    tables: dict[str, list[str]] = {}
    for name, value in {**fixed, **best.params}.items():
        table, _, key = name.partition(".")
        tables.setdefault(table, []).append(f"{key} = {json.dumps(value)}")
    lines = [
        f"# fedloom tune {plan.options.task}: trial {best.number}, {plan.task.metric} "
        f"{_figure(best, 'value')} on the clients' validation parts ({plan.options.strategy})"
    ]
    for table, entries in tables.items():
        lines += [f"[{table}]", *entries]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
