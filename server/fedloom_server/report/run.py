"""report.png: one run on one page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedloom_server.privacy.budget import FIGURES
from fedloom_server.privacy.ledger import told_spent
from fedloom_server.report import history, lines
from fedloom_server.report.costs import draw_costs
from fedloom_server.report.explained import pictures
from fedloom_server.report.labels import draw_labels
from fedloom_server.report.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    VERMILLION,
    header,
    label_axes,
    legend_line,
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
METRIC_NAMES = {"accuracy": "Accuracy", "mae": "Mean absolute error"}


def draw_run(store: RunStore, path: Path) -> None:
    """Draw a run's report to `path`: learning, its spread over clients, their data, and the cost."""
    save(run_figure(store), path)


def run_figure(store: RunStore) -> Figure:
    """The report of a run with at least one round as a Matplotlib figure."""
    facts, rounds = store.facts(), store.rounds()
    figure = page()
    _header(figure, facts, rounds)
    upper = figure.add_gridspec(
        1, 2, left=_LEFT, right=_RIGHT, top=0.795, bottom=0.475, width_ratios=(1.25, 1), wspace=0.28
    )
    _metric(figure.add_subplot(upper[0]), store, facts, rounds)
    _loss(figure.add_subplot(upper[1]), rounds)
    lower = figure.add_gridspec(
        1, 2, left=_LEFT, right=_RIGHT, top=0.375, bottom=0.085, width_ratios=(1.25, 1), wspace=0.28
    )
    names = facts.get("class_names", ())
    draw_labels(figure, lower[0], history.label_counts(store), history.sizes(store), names)
    draw_costs(figure, lower[1], rounds)
    _footer(figure, store, rounds)
    _explained(figure, store.folder)
    return figure


def _header(figure: Figure, facts: Mapping[str, Any], rounds: list[Round]) -> None:
    trained = rounds[-1].number
    status = "" if facts.get("status") == "finished" else f"  ·  {facts.get('status')}"
    parts = (
        facts["strategy"],
        facts["partition"],
        _count(facts["clients"], "client"),
        _count(trained, "round"),
        f"seed {facts['seed']}",
        f"{facts['engine']} engine",
    )
    header(figure, str(facts["task"]), "  ·  ".join(parts) + status, _LEFT, 0.924, width=4.3)
    metric = facts["metric"]
    traffic = float(sum(entry.bytes_up + entry.bytes_down for entry in rounds))
    unit, scale = history.byte_unit(traffic)
    tiles = [
        (history.figure(_last(rounds, "metric")), f"test {metric}"),
        (history.figure(_last(rounds, "worst_metric")), "worst 5 % of clients"),
        (history.figure(_last(rounds, "loss")), "test loss"),
        (f"{traffic / scale:.3g} {unit}", "traffic"),
        (history.duration(facts.get("seconds")), "duration"),
    ]
    for place, (value, caption) in zip(np.linspace(_RIGHT - 0.42, _RIGHT, len(tiles)), tiles, strict=True):
        figure.text(place, 0.944, value, fontsize=13, color=INK, ha="right", va="baseline")
        figure.text(place, 0.924, caption, fontsize=7, color=MUTED, ha="right", va="baseline")
    rule(figure, _LEFT, _RIGHT, 0.878)


def _metric(axes: Axes, store: RunStore, facts: Mapping[str, Any], rounds: list[Round]) -> None:
    metric = facts["metric"]
    x = np.array([entry.number for entry in rounds], dtype=np.float64)
    quantiles = history.client_quantiles(rounds, store.client_rounds("evaluate"))
    test, worst = history.column(rounds, "metric"), history.column(rounds, "worst_metric")
    panel(axes, f"{METRIC_NAMES.get(metric, metric)}, and its spread over clients", legend=True)
    label_axes(axes, "round", metric)
    round_axis(axes, rounds[0].number, rounds[-1].number)
    baselines = {
        shorten(name, 45): value for name, value in facts.get("baselines", {}).items() if np.isfinite(value)
    }
    if not any(np.isfinite(values).any() for values in (test, worst, quantiles)):
        note(axes, f"no {metric} was measured")
        return
    lines.line(axes, x, test, "test set", BLUE)
    lines.bands(axes, x, quantiles)
    lines.line(axes, x, worst, "worst 5 %", VERMILLION, linewidth=1.1)
    legend_line(axes)
    references = np.array(list(baselines.values()), dtype=np.float64)
    lines.value_axis(axes, [test, worst, quantiles, references], bounded=metric == "accuracy")
    lines.references(axes, baselines, test)
    lines.end_values(axes, [(test, BLUE), (worst, VERMILLION)])


def _loss(axes: Axes, rounds: list[Round]) -> None:
    x = np.array([entry.number for entry in rounds], dtype=np.float64)
    shown = (
        ("loss", "test set", BLUE),
        ("train_loss", "clients, training", ORANGE),
        ("federated_loss", "clients, validation", GREEN),
    )
    series = [(history.column(rounds, name), label, color) for name, label, color in shown]
    panel(axes, "Loss", legend=True)
    label_axes(axes, "round", "mean loss")
    round_axis(axes, rounds[0].number, rounds[-1].number)
    if not any(np.isfinite(values).any() for values, _, _ in series):
        note(axes, "no loss was measured")
        return
    for values, label, color in series:
        if np.isfinite(values).any():
            lines.line(axes, x, values, label, color, linewidth=1.6 if color == BLUE else 1.1)
    legend_line(axes)
    lines.value_axis(axes, [values for values, _, _ in series], bounded=False)
    lines.end_values(axes, [(values, color) for values, _, color in series])


def _footer(figure: Figure, store: RunStore, rounds: list[Round]) -> None:
    facts = store.facts()
    versions = facts.get("versions", {})
    shown = ", ".join(f"{name} {versions[name]}" for name in ("fedloom", "flwr", "torch") if name in versions)
    text = f"arrays {rounds[-1].arrays[:12]}  ·  {shown}"
    if (told := facts.get("privacy")) and (spent := told_spent(store, told).get(FIGURES[0])) is not None:
        text = f"ε {spent:.3g} at δ {told['delta']:g} for each {told['unit']}  ·  {text}"
    figure.text(_RIGHT, 0.018, text, fontsize=6.5, color=MUTED, ha="right", va="baseline")


def _explained(figure: Figure, folder: Path) -> None:
    """Name the pictures of explanations, which are beside the run."""
    text = "  ·  ".join(f"{what}: {name}" for name, what in pictures(folder).items())
    figure.text(_LEFT, 0.018, text, fontsize=6.5, color=MUTED, va="baseline")


def _last(rounds: list[Round], name: str) -> float | None:
    return history.last_finite(history.column(rounds, name))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
