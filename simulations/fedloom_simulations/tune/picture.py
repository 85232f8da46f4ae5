"""The picture of a search: how it went, and what each setting has to do with the figure."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.trial import FrozenTrial, TrialState

from fedloom_client.space import Choice, Dimension, Whole
from fedloom_server.report.run import METRIC_NAMES
from fedloom_server.report.style import (
    BLUE,
    GREY,
    VERMILLION,
    header,
    label_axes,
    legend_line,
    page,
    panel,
    round_axis,
    save,
)
from fedloom_simulations.tune.plan import SearchPlan

_COLUMNS = 3


def draw_search(plan: SearchPlan, study: optuna.Study, path: Path) -> None:
    """Draw the trials' figures in their order, and against each setting, to `path`."""
    save(_figure(plan, study), path)


def _figure(plan: SearchPlan, study: optuna.Study) -> Figure:
    trials = [trial for trial in study.trials if trial.user_attrs.get("value") is not None]
    rows = -(-len(plan.space) // _COLUMNS)
    figure = page((11.69, 4.2 + 2.9 * rows))
    height = figure.get_size_inches()[1]
    options = plan.options
    title = f"{plan.task.name}: {len(study.trials)} trials of {options.search} search"
    facts = f"{options.strategy}, {options.rounds} rounds, seed {options.seed}"
    header(figure, title, facts, 0.07, 1 - 0.5 / height, 10)
    grid = figure.add_gridspec(
        1 + rows,
        _COLUMNS,
        left=0.07,
        right=0.96,
        top=1 - 1.3 / height,
        bottom=0.6 / height,
        hspace=0.55,
        wspace=0.28,
    )
    metric = METRIC_NAMES.get(plan.task.metric, plan.task.metric)
    _history(figure.add_subplot(grid[0, :]), trials, study, f"{metric} on {plan.judges}")
    for place, (name, dimension) in enumerate(plan.space.items()):
        axes = figure.add_subplot(grid[1 + place // _COLUMNS, place % _COLUMNS])
        _setting(axes, trials, study.best_trial, name, dimension)
        if place % _COLUMNS == 0:
            label_axes(axes, y=metric)
    return figure


def _history(axes: Axes, trials: list[FrozenTrial], study: optuna.Study, title: str) -> None:
    panel(axes, title, legend=True)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = np.maximum if study.direction == optuna.study.StudyDirection.MAXIMIZE else np.minimum
    _points(axes, trials, study.best_trial, lambda trial: trial.number)
    numbers = [trial.number for trial in complete]
    values = best.accumulate([trial.user_attrs["value"] for trial in complete])
    axes.step(numbers, values, where="post", color=VERMILLION, linewidth=1.2, label="best so far")
    legend_line(axes)
    round_axis(axes, 0, max(trial.number for trial in trials))
    label_axes(axes, "trial")


def _setting(
    axes: Axes, trials: list[FrozenTrial], best: FrozenTrial, name: str, dimension: Dimension
) -> None:
    panel(axes, name)
    if isinstance(dimension, Choice):
        places = {value: place for place, value in enumerate(dimension.values)}
        axes.set_xticks(range(len(places)), [str(value) for value in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        _points(axes, trials, best, lambda trial: places[trial.params[name]])
        return
    if dimension.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif isinstance(dimension, Whole):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _points(axes, trials, best, lambda trial: trial.params[name])


def _points(axes: Axes, trials: list[FrozenTrial], best: FrozenTrial, where: Any) -> None:
    """Every trial's last figure: full dots went to the end, hollow ones were pruned."""
    kinds = ((TrialState.COMPLETE, "complete", BLUE), (TrialState.PRUNED, "pruned", "none"))
    for state, label, fill in kinds:
        some = [trial for trial in trials if trial.state == state and trial.number != best.number]
        if some:
            x, y = [where(trial) for trial in some], [trial.user_attrs["value"] for trial in some]
            edge = BLUE if fill != "none" else GREY
            axes.scatter(x, y, s=16, facecolors=fill, edgecolors=edge, linewidths=0.9, label=label)
    x, y = [where(best)], [best.user_attrs["value"]]
    axes.scatter(x, y, s=34, marker="D", color=VERMILLION, label="best", zorder=3)
