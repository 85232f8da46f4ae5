"""What a search may vary: ranges and choices, named after the settings of `--set`."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedloom_client.training import Training
from fedloom_edge.errors import InputError

Value = float | int | str

_POINTS = 3  # of a range in a grid


@dataclass(frozen=True, kw_only=True)
class Real:
    """A real number from `low` to `high`; with `log`, evenly over orders of magnitude (then low > 0)."""

    low: float
    high: float
    log: bool = False

    def points(self) -> list[Value]:
        """The range's ends and its middle, for a grid."""
        if self.log:
            return [self.low, math.sqrt(self.low * self.high), self.high]
        return [self.low, (self.low + self.high) / 2, self.high]

    def holds(self, value: Value) -> bool:
        """Whether `value` lies in the range."""
        return not isinstance(value, str) and self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole number from `low` to `high`, both included; `log` as for `Real`."""

    low: int
    high: int
    log: bool = False

    def points(self) -> list[Value]:
        """The range's ends and its middle, for a grid."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return sorted({self.low, round(middle), self.high})

    def holds(self, value: Value) -> bool:
        """Whether `value` lies in the range."""
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of some values without an order between them."""

    values: tuple[Value, ...]

    def points(self) -> list[Value]:
        """All values, for a grid."""
        return list(self.values)

    def holds(self, value: Value) -> bool:
        """Whether `value` is one of them."""
        return value in self.values


Dimension = Real | Whole | Choice
Space = Mapping[str, Dimension]
"""`training.lr` or `strategy.eta` -> what may be tried."""


def space_around(training: Training) -> Space:
    """The space of a task that declares none: step size, batch size, and passes a round."""
    return {
        "training.lr": Real(low=training.lr / 10, high=training.lr * 10, log=True),
        "training.batch_size": Whole(
            low=max(training.batch_size // 4, 1), high=training.batch_size * 4, log=True
        ),
        "training.epochs": Whole(low=1, high=max(2 * training.epochs, 3)),
    }


def check_space(space: Space) -> None:
    """Refuse a space that no search can use.

    Raises:
        InputError: a dimension's name or bounds make no sense.
    """
    for name, dimension in space.items():
        if name.partition(".")[0] not in ("training", "strategy"):
            raise InputError(f"space {name!r}: a name is training.KEY or strategy.KEY")
        if not isinstance(dimension, Dimension):
            raise InputError(f"space {name}: {dimension!r} is none of Real(), Whole() and Choice()")
        if isinstance(dimension, Choice):
            if not isinstance(dimension.values, tuple | list) or not dimension.values:
                raise InputError(f"space {name}: give a tuple of at least one value to choose from")
        elif not _is_range(dimension):
            raise InputError(f"space {name}: from {dimension.low} to {dimension.high} is no range to search")


def _is_range(dimension: Real | Whole) -> bool:
    kind = int if isinstance(dimension, Whole) else int | float
    low, high = dimension.low, dimension.high
    if not (isinstance(low, kind) and isinstance(high, kind) and math.isfinite(low) and math.isfinite(high)):
        return False
    return low < high and (low > 0 or not dimension.log)


def grid(space: Space) -> Iterator[dict[str, Value]]:
    """Every combination of the dimensions' points, the last dimension changing fastest."""
    for values in itertools.product(*(dimension.points() for dimension in space.values())):
        yield dict(zip(space, values, strict=True))
