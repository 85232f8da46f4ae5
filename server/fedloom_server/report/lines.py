"""Lines over rounds: gaps where nothing was measured, bands over clients, and their last values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from fedloom_server.report.history import Floats, figure, last_finite
from fedloom_server.report.style import BLUE, MUTED

_FEW = 25  # so many points carry markers
_LABEL_POINTS = 9.5  # distance of two end labels
_LOG_FROM = 30.0  # a larger ratio of highest to lowest is drawn on a logarithmic axis


def line(axes: Axes, x: Floats, y: Floats, label: str, color: str, **style: Any) -> None:
    """A line through measured points: it breaks at a missing one, and a lonely point is a dot."""
    marks = np.isfinite(y) if len(x) <= _FEW else _alone(y)
    if marks.any():
        style = {"marker": "o", "markersize": 3.2, "markevery": np.flatnonzero(marks).tolist(), **style}
    axes.plot(x, y, color=color, label=label, **{"linewidth": 1.6, "solid_capstyle": "round", **style})


def bands(axes: Axes, x: Floats, quantiles: Floats) -> None:
    """The clients' p5–p95 and p25–p75 (rows of `client_quantiles`) as bands; bars where alone."""
    p5, p25, _, p75, p95 = quantiles
    lonely = _alone(p5)
    pairs = ((p5, p95, 0.14, 2.5, "90 % of clients"), (p25, p75, 0.24, 6.0, "middle half of clients"))
    for low, high, alpha, width, label in pairs:
        axes.fill_between(x, low, high, color=BLUE, alpha=alpha, linewidth=0, label=label)
        axes.vlines(x[lonely], low[lonely], high[lonely], color=BLUE, alpha=alpha, linewidth=width)


def value_axis(axes: Axes, values: Sequence[Floats], *, bounded: bool) -> None:
    """Limits of the y axis around everything drawn; `bounded` for figures in [0, 1].

    Positive figures that span more than a decade and a half are drawn logarithmically.
    """
    drawn = np.concatenate([np.ravel(entry) for entry in values])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return
    low, high = float(drawn.min()), float(drawn.max())
    if not bounded and low > 0 and high / low > _LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e4 else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        return
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    low, high = low - room, high + room
    axes.set_ylim(max(low, -0.01) if bounded else low, min(high, 1.01) if bounded else high)


def references(axes: Axes, values: Mapping[str, float], beside: Floats) -> None:
    """Dashed lines with names, each at the side where the series `beside` is further away.

    Call it when the axes' limits and place are final.
    """
    measured = beside[np.isfinite(beside)]
    sides: dict[bool, list[tuple[float, str, str]]] = {True: [], False: []}
    for name, value in values.items():
        axes.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        right = not measured.size or abs(measured[-1] - value) > abs(measured[0] - value)
        sides[right].append((value, f"{name} {figure(value)}", MUTED))
    for right, labels in sides.items():
        place = (1 if right else 0, -3 if right else 3, "right" if right else "left")
        _write(axes, labels, place, above=5.5)


def end_values(axes: Axes, series: Sequence[tuple[Floats, str]]) -> None:
    """Write each series' last value beside the right edge, in its colour, never over another.

    Call it when the axes' limits and place are final.
    """
    ends = [(last_finite(values), color) for values, color in series]
    _write(axes, [(last, figure(last), color) for last, color in ends if last is not None], (1, 4, "left"))


def _write(
    axes: Axes, labels: Sequence[tuple[float, str, str]], place: tuple[float, float, str], above: float = 0
) -> None:
    """Write (value, text, colour) labels at the height of their values, moved apart where they are near.

    `place` is x in the axes, an offset in points, and the alignment; `above` is raised by, in points.
    """
    x, offset, alignment = place
    per_point = axes.figure.dpi / 72
    bottom, top = axes.bbox.y0 / per_point, axes.bbox.y1 / per_point
    ordered = sorted(labels)
    heights = [axes.transData.transform((0, value))[1] / per_point + above for value, _, _ in ordered]
    for (_, text, color), height in zip(ordered, spread(heights, bottom, top), strict=True):
        axes.annotate(
            text,
            (x, (height - bottom) / (top - bottom)),
            xytext=(offset, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7.5,
            color=color,
            ha=alignment,
            va="center",
            annotation_clip=False,
        )


def spread(places: Sequence[float], bottom: float, top: float) -> list[float]:
    """Ascending `places` moved apart so that labels don't overlap, within bottom and top if they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + _LABEL_POINTS) if moved else max(place, bottom))
    limit = top
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - _LABEL_POINTS
    return moved


def columns(
    axes: Axes, x: Floats, heights: Floats, color: str, label: str, bottom: Floats | float = 0
) -> None:
    """A column a round; many rounds touch each other."""
    width = 0.72 if len(x) <= 60 else 1.0
    axes.bar(x, np.nan_to_num(heights), width, bottom, color=color, label=label, linewidth=0)


def _alone(y: Floats) -> NDArray[np.bool_]:
    """Where a measured point has no measured neighbour (R,)."""
    finite = np.isfinite(y)
    padded = np.pad(finite, 1)
    alone: NDArray[np.bool_] = finite & ~padded[:-2] & ~padded[2:]
    return alone
