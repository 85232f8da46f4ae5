"""What the rounds of a run cost: traffic, time, and clients that failed."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from fedloom_server.report import history, lines
from fedloom_server.report.style import (
    BLUE,
    GREY,
    MUTED,
    ORANGE,
    SKY,
    VERMILLION,
    label_axes,
    panel,
    round_axis,
)
from fedloom_server.store.rows import Round


def draw_costs(figure: Figure, place: SubplotSpec, rounds: Sequence[Round]) -> None:
    """Traffic, time and clients of every round, one above the other."""
    x = np.array([entry.number for entry in rounds], dtype=np.float64)
    grid = place.subgridspec(3, 1, hspace=0.75)
    traffic, seconds, clients = stack = [figure.add_subplot(grid[row]) for row in range(3)]
    up, down = (history.column(rounds, name) for name in ("bytes_up", "bytes_down"))
    unit, scale = history.byte_unit(float(max(up.max(), down.max())))
    panel(traffic, f"Traffic, {unit} a round")
    lines.columns(traffic, x, up / scale, BLUE, "up")
    lines.columns(traffic, x, -down / scale, SKY, "down")
    traffic.axhline(0, color="white", linewidth=0.8)
    highest = 1.08 * float(max(up.max(), down.max(), 1)) / scale
    traffic.set_ylim(-highest, highest)
    traffic.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    _corner_legend(traffic)
    panel(seconds, "Time, seconds a round")
    lines.columns(seconds, x, history.column(rounds, "seconds"), GREY, "seconds")
    panel(clients, "Clients a round")
    _clients(clients, x, rounds)
    for axes in stack:
        round_axis(axes, rounds[0].number, rounds[-1].number)
        axes.locator_params(axis="y", nbins=3)
    for axes in stack[:-1]:
        axes.tick_params(labelbottom=False)
    label_axes(clients, "round")


def _clients(axes: Axes, x: history.Floats, rounds: Sequence[Round]) -> None:
    kinds = (
        ("clients_ok", "ok", GREY),
        ("clients_failed", "failed", VERMILLION),
        ("rejected", "rejected", ORANGE),
    )
    bottom = np.zeros(len(x))
    for name, label, color in kinds:
        heights = history.column(rounds, name)
        total = int(heights.sum())
        if total or label == "ok":
            lines.columns(axes, x, heights, color, label if label == "ok" else f"{total:,} {label}", bottom)
            bottom = bottom + heights
    _corner_legend(axes)


def _corner_legend(axes: Axes) -> None:
    """A legend at the right of the panel's title."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 0.98),
        ncols=3,
        frameon=False,
        fontsize=7,
        labelcolor=MUTED,
        handlelength=0.8,
        handleheight=0.8,
        columnspacing=1.2,
        handletextpad=0.4,
        borderpad=0,
        borderaxespad=0.2,
    )
