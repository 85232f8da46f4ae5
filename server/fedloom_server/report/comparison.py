"""A picture of several runs: how they learn, what it costs them, and where they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedloom_edge.errors import InputError
from fedloom_server.report import history, lines
from fedloom_server.report.history import Floats
from fedloom_server.report.run import METRIC_NAMES
from fedloom_server.report.style import (
    INK,
    MUTED,
    PALETTE,
    RULE,
    header,
    label_axes,
    note,
    page,
    panel,
    round_axis,
    rule,
    save,
    shorten,
)
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore

_LEFT, _RIGHT = 0.075, 0.945
_FACTS = ("task", "strategy", "partition", "clients", "seed", "engine", "planned_rounds")
_NAME = 38  # letters of a run's label beside its row
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class _Run:
    """A run and how it is drawn."""

    label: str
    rounds: list[Round]
    color: str
    dash: Any

    @property
    def numbers(self) -> Floats:
        return np.array([entry.number for entry in self.rounds], dtype=np.float64)


def draw_comparison(stores: Sequence[RunStore], path: Path) -> None:
    """Draw several runs, each with at least one round, on one page to `path`.

    Raises:
        InputError: the runs' standard metrics differ.
    """
    save(comparison_figure(stores), path)


def comparison_figure(stores: Sequence[RunStore]) -> Figure:
    """The comparison as a Matplotlib figure."""
    facts = [store.facts() for store in stores]
    metrics = sorted({str(entry["metric"]) for entry in facts})
    if len(metrics) > 1:
        raise InputError(f"a picture compares runs of one metric, these have {' and '.join(metrics)}")
    labels = run_labels(facts, [store.folder.resolve().name for store in stores])
    runs = [
        _Run(label, store.rounds(), PALETTE[i % len(PALETTE)], _DASHES[i // len(PALETTE) % len(_DASHES)])
        for i, (label, store) in enumerate(zip(labels, stores, strict=True))
    ]
    figure = page()
    shared = "  ·  ".join(_fact(key, facts[0][key]) for key in _FACTS if len(_values(facts, key)) == 1)
    header(figure, f"{len(runs)} runs", shared, _LEFT, 0.924, width=9)
    rule(figure, _LEFT, _RIGHT, 0.878)
    _legend(figure, runs)
    metric = metrics[0]
    upper = figure.add_gridspec(1, 2, left=_LEFT, right=_RIGHT, top=0.755, bottom=0.465, wspace=0.2)
    _over_rounds(figure.add_subplot(upper[0]), runs, "metric", metric)
    _over_rounds(figure.add_subplot(upper[1]), runs, "loss", "loss")
    # The runs' names stand between the lower panels.
    names = 0.05 + 0.0056 * min(_NAME, max(map(len, labels)))
    middle = 0.5 * (_LEFT + _RIGHT + 0.04 - names)
    lower = {"top": 0.355, "bottom": 0.085}
    _over_traffic(
        figure.add_subplot(figure.add_gridspec(1, 1, left=_LEFT, right=middle, **lower)[0]), runs, metric
    )
    _ends(
        figure.add_subplot(figure.add_gridspec(1, 1, left=middle + names, right=_RIGHT, **lower)[0]),
        runs,
        metric,
    )
    return figure


def run_labels(facts: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> list[str]:
    """What tells each run from the others: the facts that differ, and the folder where they don't."""
    differing = [key for key in _FACTS if len(_values(facts, key)) > 1]
    labels = [" · ".join(_fact(key, entry.get(key)) for key in differing) for entry in facts]
    return [
        label if label and labels.count(label) == 1 else " · ".join(filter(None, (label, folder)))
        for label, folder in zip(labels, folders, strict=True)
    ]


def _values(facts: Sequence[Mapping[str, Any]], key: str) -> set[str]:
    return {str(entry.get(key)) for entry in facts}


def _fact(key: str, value: Any) -> str:
    words = {"clients": "{} clients", "seed": "seed {}", "engine": "{} engine", "planned_rounds": "{} rounds"}
    return words.get(key, "{}").format(value)


def _over_rounds(axes: Axes, runs: Sequence[_Run], name: str, what: str) -> None:
    panel(axes, f"{METRIC_NAMES.get(what, what.capitalize())} on the test set")
    label_axes(axes, "round", what)
    round_axis(axes, 0, max(run.rounds[-1].number for run in runs))
    _lines(axes, runs, name, [run.numbers for run in runs], bounded=what == "accuracy")


def _over_traffic(axes: Axes, runs: Sequence[_Run], metric: str) -> None:
    moved = [
        np.cumsum(history.column(run.rounds, "bytes_up") + history.column(run.rounds, "bytes_down"))
        for run in runs
    ]
    unit, scale = history.byte_unit(max(float(entry[-1]) for entry in moved))
    panel(axes, f"{METRIC_NAMES.get(metric, metric)} against traffic")
    label_axes(axes, f"{unit} up and down since the start", metric)
    _lines(axes, runs, "metric", [entry / scale for entry in moved], bounded=metric == "accuracy")
    axes.margins(x=0.02)


def _lines(axes: Axes, runs: Sequence[_Run], name: str, x: Sequence[Floats], *, bounded: bool) -> None:
    series = [history.column(run.rounds, name) for run in runs]
    if not any(np.isfinite(values).any() for values in series):
        note(axes, "nothing was measured")
        return
    for run, places, values in zip(runs, x, series, strict=True):
        lines.line(
            axes, places, values, run.label, run.color, linestyle=run.dash, markersize=2.4, linewidth=1.4
        )
    lines.value_axis(axes, series, bounded=bounded)


def _ends(axes: Axes, runs: Sequence[_Run], metric: str) -> None:
    """The last test metric (filled) and that of the worst 5 % of clients (hollow), a row a run."""
    panel(axes, f"Final {metric}: ● test set   ○ worst 5 %")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=RULE, linewidth=0.5, alpha=0.6)
    for row, run in enumerate(runs):
        test = history.last_finite(history.column(run.rounds, "metric"))
        worst = history.last_finite(history.column(run.rounds, "worst_metric"))
        ends = [value for value in (test, worst) if value is not None]
        axes.plot(ends, [row] * len(ends), color=run.color, linewidth=1.2, alpha=0.5)
        if worst is not None:
            axes.plot(worst, row, "o", markersize=6, color=run.color, markerfacecolor="white")
        if test is not None:
            axes.plot(test, row, "o", markersize=6, color=run.color)
            axes.annotate(
                history.figure(test),
                (max(ends), row),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
            )
    axes.set_yticks(range(len(runs)), [shorten(run.label, _NAME) for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    label_axes(axes, metric)


def _legend(figure: Figure, runs: Sequence[_Run]) -> None:
    longest = max(len(run.label) for run in runs)
    figure.legend(
        [Line2D([], [], color=run.color, linestyle=run.dash, linewidth=2) for run in runs],
        [shorten(run.label, 60) for run in runs],
        loc="upper left",
        bbox_to_anchor=(_LEFT - 0.005, 0.865),
        ncols=max(1, min(6, len(runs), 130 // (longest + 8))),
        frameon=False,
        fontsize=8,
        labelcolor=MUTED,
        handlelength=1.8,
        columnspacing=1.6,
        borderpad=0,
    )
