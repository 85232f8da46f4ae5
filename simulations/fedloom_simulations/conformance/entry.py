"""What an entry of the suite is: runs, a figure that they come to, and the interval it must lie in."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedloom_server.store.rows import Round

Curves = Mapping[str, Sequence[Round]]
"""Name of a run -> its rounds, from round 0 (before training) on."""
Figure = Callable[[Curves], float]


@dataclass(frozen=True)
class Run:
    """One run of `fedloom simulate`.

    Attributes:
        task: in `tasks.py`.
        rounds: of training.
        options: further flags.
        validation: share of each shard that is measured on, in [0, 1).
    """

    task: str
    rounds: int
    options: tuple[str, ...] = ()
    validation: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published figure or claim.

    Attributes:
        name: for `--only`.
        source: authors, year, where in it.
        published: what it says.
        setup: how it was come to there, and what is otherwise here.
        runs: by name; each seed runs them all.
        figure: of one seed's runs.
        interval: where the mean over seeds must lie, both ends included.
        unit: what the figure is.
        short: takes seconds.
    """

    name: str
    source: str
    published: str
    setup: str
    runs: Mapping[str, Run]
    figure: Figure
    interval: tuple[float, float]
    unit: str
    short: bool = False


def around(published: float, deviation: float, test: int = 0) -> tuple[float, float]:
    """Two standard deviations around a published accuracy, both in percent.

    Args:
        published: mean over the source's runs.
        deviation: standard deviation over them.
        test: examples that ours is measured on, where they are another draw than the source's: its
            binomial error then adds; 0 where they are the same examples.
    """
    share = published / 100
    sampling = 100 * math.sqrt(share * (1 - share) / test) if test else 0.0
    width = 2 * math.hypot(deviation, sampling)
    return published - width, min(published + width, 100.0)


def one_area(published: float, *, positive: int, negative: int) -> tuple[float, float]:
    """Two standard errors around an area under a ROC curve (Hanley & McNeil, 1982, eq. 2).

    Args:
        published: the area, in (0.5, 1).
        positive: test examples of one class.
        negative: of the other.
    """
    a = published
    first, second = a / (2 - a), 2 * a**2 / (1 + a)
    variance = a * (1 - a) + (positive - 1) * (first - a**2) + (negative - 1) * (second - a**2)
    width = 2 * math.sqrt(variance / (positive * negative))
    return a - width, min(a + width, 1.0)


def last(name: str, rounds: int = 3) -> Figure:
    """Accuracy on the test set in percent, mean of the last rounds of a run."""
    return lambda curves: 100 * fmean(entry.metric or 0.0 for entry in curves[name][-rounds:])


def auc_of(name: str) -> Figure:
    """The area under the ROC curve after the last round of a run."""
    return lambda curves: curves[name][-1].metrics["auc"]


def best_at_clients(name: str) -> Figure:
    """The best round's accuracy at the clients in percent, weighted by their examples."""
    return lambda curves: 100 * max(entry.federated_metric or 0.0 for entry in curves[name])


def rounds_ratio(name: str, other: str, accuracy: float) -> Figure:
    """Rounds until a run has an accuracy on the test set, over another's.

    One that never has it counts one more than it had.
    """

    def rounds(entries: Sequence[Round]) -> int:
        reached = (entry.number for entry in entries if (entry.metric or 0.0) >= accuracy)
        return next(reached, entries[-1].number + 1)

    return lambda curves: rounds(curves[name]) / rounds(curves[other])


def excess_ratio(name: str, other: str) -> Figure:
    """How far a run of `linear` ends above the least possible loss, over how far another does."""

    def figure(curves: Curves) -> float:
        from fedloom_simulations.conformance.tasks import least_loss

        least = least_loss()
        above, below = ((curves[run][-1].loss or 0.0) - least for run in (name, other))
        return above / below

    return figure
