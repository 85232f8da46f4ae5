"""Who holds what: the examples of every client, and the classes among them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedloom_server.report.style import BLUE, GREY, INK, MUTED, RULE, label_axes, panel, shorten

Counts = NDArray[np.int64]
_FEW_CLIENTS, _FEW_CLASSES = 16, 14  # so many have their number written in the cell
_SORTED_FROM = 50  # more clients stand in the order of their largest class
_NAMED_CLASSES = 24

# White to dark blue: ordered by lightness, so it reads in grey and with every colour vision.
_SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#a6d0ea", BLUE, "#08254a"])


def draw_labels(
    figure: Figure, place: SubplotSpec, counts: Counts | None, sizes: Sequence[int], names: Sequence[str]
) -> None:
    """Fill `place` with the clients' sizes over a heat map of their classes; only sizes without classes.

    Args:
        figure: the page.
        place: part of its grid.
        counts: examples (clients, classes), or None.
        sizes: examples of each client.
        names: of the classes by index; may be empty.
    """
    many = len(sizes) > _SORTED_FROM
    if counts is None:
        axes = figure.add_subplot(place)
        panel(axes, "Examples per client")
        ordered = np.sort(np.asarray(sizes))[::-1] if many else np.asarray(sizes)
        _bars(axes, ordered, ticks=6)
        label_axes(axes, "clients, ordered by size" if many else "client", "training examples")
        return
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1))) if many else np.arange(len(counts))
    grid = place.subgridspec(2, 2, height_ratios=(1, 4.6), width_ratios=(60, 1), hspace=0.07, wspace=0.04)
    top = figure.add_subplot(grid[0, 0])
    axes = figure.add_subplot(grid[1, 0], sharex=top)
    panel(top, "Examples per client, and their labels")
    _bars(top, np.asarray(sizes)[order], ticks=3)
    top.tick_params(labelbottom=False, bottom=False)
    label_axes(axes, "clients, ordered by their largest class" if many else "client")
    _heat_map(axes, counts[order], shares[order], names)
    _scale(figure, figure.add_subplot(grid[1, 1]), axes)


def _bars(axes: Axes, sizes: NDArray[Any], ticks: int) -> None:
    if len(sizes) <= 60:
        axes.bar(range(len(sizes)), sizes, 0.8, color=GREY, linewidth=0)
    else:  # one shape: Matplotlib takes a millisecond a bar
        axes.stairs(sizes, np.arange(len(sizes) + 1) - 0.5, fill=True, color=GREY, linewidth=0)
    axes.set_xlim(-0.5, len(sizes) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))


def _heat_map(axes: Axes, counts: Counts, shares: NDArray[Any], names: Sequence[str]) -> None:
    """Shares of classes (rows) in clients (columns), on a scale that is the same in every picture."""
    # The square root keeps a class in fifty visible beside one that is all a client has.
    norm = PowerNorm(0.5, 0, 1)
    axes.imshow(shares.T, cmap=_SHARES, norm=norm, aspect="auto", interpolation="nearest")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(labelsize=7.5, labelcolor=MUTED, color=RULE, length=0, pad=3)
    _name_classes(axes, counts.shape[1], names)
    if counts.shape[0] <= _FEW_CLIENTS and counts.shape[1] <= _FEW_CLASSES:
        for (client, label), count in np.ndenumerate(counts):
            dark = shares[client, label] > 0.3
            axes.text(
                client,
                label,
                f"{count}" if count else "·",
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if dark else (INK if count else RULE),
            )


def _scale(figure: Figure, place: Axes, picture: Axes) -> None:
    """The heat map's colour scale."""
    scale = figure.colorbar(picture.images[0], cax=place, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
    place.set_yticklabels(["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    place.tick_params(labelsize=7, labelcolor=MUTED, color=RULE, length=2)
    place.set_title("share", fontsize=7, color=MUTED, pad=4, loc="left")
    scale.outline.set_visible(False)


def _name_classes(axes: Axes, classes: int, names: Sequence[str]) -> None:
    if classes <= _NAMED_CLASSES:
        ticks = range(classes)
        texts = [shorten(names[i], 13) if i < len(names) else str(i) for i in ticks]
        axes.set_yticks(ticks, texts)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axes.set_ylabel("class", fontsize=8, color=MUTED)
