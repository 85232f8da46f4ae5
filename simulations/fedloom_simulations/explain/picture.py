"""Pictures of explanations: images under a map, series under bands, texts on colours, tables as bars."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedloom_client.data.preprocess import words as split_words
from fedloom_server.report.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    header,
    label_axes,
    page,
    panel,
    save,
    shorten,
)

_COLUMNS = 3
_MAP = "RdBu_r"  # red speaks for the output, blue against it
_FEATURES = 12  # bars of a table


def draw_samples(
    path: Path,
    facts: dict[str, Any],
    entries: list[dict[str, Any]],
    shown: NDArray[Any],
    values: NDArray[np.float32],
) -> None:
    """Draw the explained samples to `path`: raw inputs (N, ...) under attributions (N, ...)."""
    rows = -(-len(entries) // _COLUMNS)
    text = shown.dtype.kind in "UO"
    figure = page((11.69, 1.5 + rows * (1.9 if text else 3.1)))
    height = figure.get_size_inches()[1]
    title = f"{facts['run']}: {facts['method'].replace('-', ' ')}"
    subtitle = f"samples of {facts['on']}; red speaks for the prediction, blue against it"
    header(figure, title, subtitle, 0.05, 1 - 0.5 / height, 10)
    grid = figure.add_gridspec(
        rows, _COLUMNS, left=0.05, right=0.97, top=1 - 1.25 / height, bottom=0.4 / height, hspace=0.5
    )
    for place, entry in enumerate(entries):
        axes = figure.add_subplot(grid[place // _COLUMNS, place % _COLUMNS])
        wrong = entry["target"] != entry["predicted"]
        said = f"{entry['predicted']}, is {entry['target']}" if wrong else str(entry["predicted"])
        panel(axes, shorten(said, 44))
        _draw(axes, shown[place], values[place])
    save(figure, path)


def _draw(axes: Axes, raw: NDArray[Any], values: NDArray[np.float32]) -> None:
    limit = max(float(np.abs(values).max()), 1e-12)
    norm = TwoSlopeNorm(0, -limit, limit)
    if raw.dtype.kind in "UO":
        _text(axes, str(raw), values, norm)
    elif values.ndim == 3 and values.shape[0] in (1, 3):
        _image(axes, np.asarray(raw, float), values.sum(0))
    elif values.ndim == 2 and min(values.shape) > 0 and values.shape[-1] > 1 and values.shape[0] < 64:
        _series(axes, np.asarray(raw, float), values, norm)
    elif values.ndim == 2:  # (T, 1)
        _series(axes, np.asarray(raw, float).T, values.T, norm)
    else:
        _table(axes, values.reshape(-1))


def _image(axes: Axes, raw: NDArray[Any], values: NDArray[np.float32]) -> None:
    """The image, and beside it the map."""
    light = raw.mean(0) if raw.ndim == 3 else raw
    height, width = values.shape
    limit = max(float(np.abs(values).max()), 1e-12)
    second = (1.08 * width, 2.08 * width, height, 0)
    axes.imshow(light, cmap="gray_r", interpolation="nearest", extent=(0, width, height, 0))
    axes.imshow(
        values, cmap=_MAP, norm=TwoSlopeNorm(0, -limit, limit), interpolation="nearest", extent=second
    )
    axes.set_xlim(0, 2.08 * width)
    axes.set_axis_off()


def _series(axes: Axes, raw: NDArray[Any], values: NDArray[np.float32], norm: TwoSlopeNorm) -> None:
    """Channels (C, T) above each other, each on a band of its attributions."""
    count, length = values.shape
    extent = (-0.5, length - 0.5, count - 0.5, -0.5)
    axes.imshow(values, cmap=_MAP, norm=norm, aspect="auto", extent=extent, alpha=0.75)
    for channel, line in enumerate(raw.reshape(count, length)):
        spread = max(float(np.ptp(line)), 1e-12)
        axes.plot(channel - 0.8 * ((line - line.min()) / spread - 0.5), color=INK, linewidth=0.8)
    axes.set_yticks(range(count))
    axes.grid(visible=False)
    label_axes(axes, "time step", "channel")


def _text(axes: Axes, text: str, values: NDArray[np.float32], norm: TwoSlopeNorm) -> None:
    """The words that the model saw, each on the colour of its attribution."""
    import matplotlib as mpl

    colors = mpl.colormaps[_MAP]
    axes.set_axis_off()
    x, y = 0.0, 0.9
    for word, value in zip(split_words(text), values.reshape(len(values), -1).sum(1), strict=False):
        width = 0.021 * len(word) + 0.035
        if x + width > 1:
            x, y = 0.0, y - 0.2
        color = (*colors(norm(value))[:3], 0.7)
        axes.text(
            x, y, word, transform=axes.transAxes, fontsize=8, family="monospace",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.6},
        )  # fmt: skip
        x += width


def _table(axes: Axes, values: NDArray[np.float32]) -> None:
    """The features that matter most, by number."""
    top = np.argsort(-np.abs(values))[:_FEATURES][::-1]
    colors = [VERMILLION if values[feature] > 0 else BLUE for feature in top]
    axes.barh(range(len(top)), values[top], color=colors, height=0.7)
    axes.set_yticks(range(len(top)), [f"feature {feature}" for feature in top])
    axes.grid(visible=False)


def draw_contribution(path: Path, title: str, subtitle: str, result: dict[str, Any]) -> None:
    """Draw each client's share of the gain, with its error, to `path`."""
    save(_contribution(title, subtitle, result), path)


def _contribution(title: str, subtitle: str, result: dict[str, Any]) -> Figure:
    clients = result["clients"]
    figure = page((11.69, 4.6))
    header(figure, title, subtitle, 0.07, 0.89, 10)
    axes = figure.add_axes((0.07, 0.14, 0.89, 0.56))
    x = np.arange(len(clients))
    shapley = [client["shapley"] for client in clients]
    error = None if clients[0]["error"] is None else [client["error"] for client in clients]
    panel(axes, f"Share of the gain in {result['metric']}")
    axes.bar(x - 0.2, shapley, 0.38, yerr=error, color=BLUE, ecolor=MUTED, label="Shapley value")
    axes.bar(x + 0.2, [c["leave_one_out"] for c in clients], 0.38, color=VERMILLION, label="leave one out")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.legend(
        frameon=False, fontsize=7.5, labelcolor=MUTED, loc="lower right", bbox_to_anchor=(1, 1), ncols=2
    )
    if len(clients) <= 40:
        axes.set_xticks(x, [str(client["client"]) for client in clients])
    label_axes(axes, "client")
    return figure
