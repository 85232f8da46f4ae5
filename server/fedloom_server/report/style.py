"""How every picture looks: page, type, colours. Figures are objects here; nothing global is touched."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedloom_edge.errors import InputError
from fedloom_edge.files import replacing

# Okabe and Ito's colours (2008), told apart with every common kind of colour vision.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
INK, MUTED, GREY, RULE = "#1c1c1c", "#636363", "#929292", "#d4d4d4"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, BLACK, GREY)  # their yellow fades on paper

A4_LANDSCAPE = (11.69, 8.27)  # inches
_DPI = 160
_FORMATS = (".png", ".pdf", ".svg")


def page(size: tuple[float, float] = A4_LANDSCAPE) -> Figure:
    """An empty white page of `size` inches."""
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def check_format(path: Path) -> None:
    """Refuse a picture's path whose ending names no known format.

    Raises:
        InputError: it is none of .png, .pdf and .svg, or its folder is missing.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"--out {path}: a picture's name ends in {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; make it first")


def rule(figure: Figure, left: float, right: float, y: float) -> None:
    """A thin line across the page, in figure fractions."""
    figure.add_artist(Line2D([left, right], [y, y], color=RULE, linewidth=0.8))


def save(figure: Figure, path: Path) -> None:
    """Write the figure to `path` in one step; its ending decides the format."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def header(figure: Figure, title: str, subtitle: str, left: float, y: float, width: float) -> None:
    """A page's title, fitted into `width` inches, over a line of facts; `left`, `y`: figure fractions."""
    points = width * 72 / 0.7  # a bold letter is about 0.7 of its size wide
    size = float(np.clip(points / len(title), 11, 19))
    title = shorten(title, int(points / size))
    figure.text(left, y, title, fontsize=size, fontweight="bold", color=INK, va="baseline")
    height = figure.get_size_inches()[1]
    figure.text(left, y - 0.26 / height, subtitle, fontsize=9, color=MUTED, va="baseline")


def panel(axes: Axes, title: str, *, legend: bool = False) -> None:
    """Give axes a title at the left, room for a legend line under it, and no chart junk."""
    axes.annotate(
        title,
        (0, 1),
        xytext=(0, 21 if legend else 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9.5,
        fontweight="bold",
        color=INK,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(labelsize=7.5, labelcolor=MUTED, color=RULE, length=3, pad=2.5)
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def legend_line(axes: Axes, **options: Any) -> None:
    """The legend as one line between a panel's title and its plot."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.transAxes,
        ncols=9,
        frameon=False,
        fontsize=7.5,
        labelcolor=MUTED,
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.4,
        borderpad=0.2,
        borderaxespad=0.1,
        **options,
    )


def label_axes(axes: Axes, x: str = "", y: str = "") -> None:
    """Name the axes, with their units."""
    axes.set_xlabel(x, fontsize=8, color=MUTED, labelpad=3)
    axes.set_ylabel(y, fontsize=8, color=MUTED, labelpad=4)


def round_axis(axes: Axes, first: int, last: int) -> None:
    """Whole rounds on the x axis, with half a round of air on both sides."""
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def note(axes: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks([])


def shorten(text: str, length: int) -> str:
    """`text`, cut with an ellipsis if it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
