"""Pictures of explanations: images under a map, series under bands, texts on colours, tables as bars."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
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
_PAGE, _RIGHT, _TOP, _GAP, _BOTTOM = 11.69, 0.35, 1.25, 0.75, 0.55  # inches: width, margins, between rows
_LETTER, _LINE = 0.067, 0.23  # inches of a monospaced letter of 8 points, and of a line of words
_PAD = 0.11  # inches between words


def draw_samples(
    path: Path,
    facts: dict[str, Any],
    entries: list[dict[str, Any]],
    shown: NDArray[Any],
    values: NDArray[np.float32],
) -> None:
    """Draw the explained samples to `path`: raw inputs (N, ...) under attributions (N, ...)."""
    kind = _kind(shown[0], values[0])
    left = 0.95 if kind == "table" else 0.6  # inches before each column
    width = (_PAGE - _RIGHT) / _COLUMNS - left
    heights = [_height(raw, each, width) for raw, each in zip(shown, values, strict=True)]
    rows = [max(heights[first : first + _COLUMNS]) for first in range(0, len(heights), _COLUMNS)]
    page_height = _TOP + sum(rows) + _GAP * (len(rows) - 1) + _BOTTOM
    figure = page((_PAGE, page_height))
    title = f"{facts['run']}: {facts['method'].replace('-', ' ')}"
    header(figure, title, _subtitle(facts, kind), left / _PAGE, 1 - 0.5 / page_height, 10)
    for place, entry in enumerate(entries):
        row, column = divmod(place, _COLUMNS)
        x, height = left + column * (width + left), heights[place]
        y = page_height - _TOP - sum(rows[:row]) - _GAP * row - height
        axes = figure.add_axes((x / _PAGE, y / page_height, width / _PAGE, height / page_height))
        wrong = entry["target"] != entry["predicted"]
        said = f"{entry['predicted']}, is {entry['target']}" if wrong else str(entry["predicted"])
        panel(axes, shorten(said, 44))
        _draw(axes, shown[place], values[place], (width, height))
    save(figure, path)


def _subtitle(facts: dict[str, Any], kind: str) -> str:
    meaning = "red speaks for the prediction, blue against it"
    if facts["method"] == "saliency":  # magnitudes, without a sign
        more = "the longer" if kind == "table" else "the redder"
        meaning = f"{more}, the more a small change there moves the prediction, up or down"
    whose = "the test set" if facts["on"] == "test" else f"client {facts['on']}"
    return "; ".join(part for part in (f"samples of {whose}", meaning, facts["warning"]) if part)


def _kind(raw: NDArray[Any], values: NDArray[np.float32]) -> str:
    if np.asarray(raw).dtype.kind in "UO":
        return "text"
    if values.ndim == 3 and values.shape[0] in (1, 3):
        return "image"
    return "series" if values.ndim == 2 else "table"


def _height(raw: NDArray[Any], values: NDArray[np.float32], width: float) -> float:
    """Inches that a sample needs below its title."""
    match _kind(raw, values):
        case "text":
            return _LINE * (1 + max((line for _, _, line in _placed(str(raw), values, width)), default=0))
        case "image":
            return float(width * values.shape[1] / values.shape[2] / 2.08)
        case _:
            return 2.0


def _draw(axes: Axes, raw: NDArray[Any], values: NDArray[np.float32], size: tuple[float, float]) -> None:
    limit = max(float(np.abs(values).max()), 1e-12)
    norm = TwoSlopeNorm(0, -limit, limit)
    match _kind(raw, values):
        case "text":
            _text(axes, str(raw), values, norm, size)
        case "image":
            _image(axes, np.asarray(raw), values.sum(0))
        case "table":
            _table(axes, values.reshape(-1))
        case _ if values.shape[-1] > 1 and values.shape[0] < 64:
            _series(axes, np.asarray(raw, float), values, norm)
        case _:  # (T, 1)
            _series(axes, np.asarray(raw, float).T, values.T, norm)


def _image(axes: Axes, raw: NDArray[Any], values: NDArray[np.float32]) -> None:
    """The image (H, W), (1, H, W) or (3, H, W), and beside it the map (H, W)."""
    lowest, highest = (0, 255) if raw.dtype == np.uint8 else (min(raw.min(), 0), max(raw.max(), 1e-12))
    light = (raw.astype(float) - lowest) / (highest - lowest)
    light = np.moveaxis(light, 0, -1) if len(light) == 3 else light.reshape(values.shape)
    height, width = values.shape
    limit = max(float(np.abs(values).max()), 1e-12)
    second = (1.08 * width, 2.08 * width, height, 0)
    extent = (0, width, height, 0)
    axes.imshow(light, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
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
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.grid(visible=False)
    label_axes(axes, "time step", "channel")


def _placed(text: str, values: NDArray[np.float32], width: float) -> list[tuple[str, float, int]]:
    """(word, inches from the left, line) of the words of a text that have values."""
    placed, x, line = [], 0.0, 0
    for word in split_words(text)[: len(values)]:
        word = shorten(word, int((width - _PAD) / _LETTER))
        wide = _LETTER * len(word) + _PAD
        if x + wide > width:
            x, line = 0.0, line + 1
        placed.append((word, x, line))
        x += wide
    return placed


def _text(
    axes: Axes, text: str, values: NDArray[np.float32], norm: TwoSlopeNorm, size: tuple[float, float]
) -> None:
    """The words that the model saw, each on the colour of its attribution; `size` in inches."""
    import matplotlib as mpl

    colors = mpl.colormaps[_MAP]
    axes.set_axis_off()
    each = values.reshape(len(values), -1).sum(1)
    for value, (word, x, line) in zip(each, _placed(text, values, size[0]), strict=False):
        axes.text(
            x / size[0], 1 - _LINE * (line + 0.7) / size[1], word, transform=axes.transAxes, fontsize=8,
            family="monospace",
            bbox={"facecolor": (*colors(norm(value))[:3], 0.7), "edgecolor": "none", "pad": 1.6},
        )  # fmt: skip


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
