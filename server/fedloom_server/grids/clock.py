"""A grid that has a time of its own, and clients that are at work longer than a round."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from flwr.serverapp import Grid

from fedloom_edge.arrays import Arrays
from fedloom_server.grids.wrapped import GridWrapper

PutArrays = Callable[[Arrays], str]
GetArrays = Callable[[str], Arrays]


@runtime_checkable
class Clocked(Protocol):
    """What the round loop must know of such a grid. A protocol: most grids have none of it."""

    time: float

    def at_work(self) -> frozenset[int]:
        """Nodes that go on training after this phase."""
        ...

    def clock_state(self, put: PutArrays) -> dict[str, Any]:
        """What decides the future, as JSON values; `put` keeps arrays and gives their hash."""
        ...

    def restore_clock(self, state: dict[str, Any], get: GetArrays, constants: Arrays) -> None:
        """Take over what `clock_state` gave."""
        ...


def clock_of(grid: Grid) -> Clocked | None:
    """The grid in or below `grid` that has a clock, if there is one."""
    while isinstance(grid, GridWrapper) and not isinstance(grid, Clocked):
        grid = grid.inner
    return grid if isinstance(grid, Clocked) else None
