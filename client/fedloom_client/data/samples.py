"""Samples, data sets and shards: what a task's data source returns and a trainer reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.errors import DataError

Indices = NDArray[np.int64]


class Samples(Protocol):
    """Examples that are counted, grouped and fetched by index.

    A protocol, because the implementations really vary: arrays in memory, items that are decoded
    when they are fetched (images in folders, a torch `Dataset`), and a view on either.
    """

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each example (N,), or None where the target is no class."""
        ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Natural owner of each example (N,): a person, a ticker; None where there is none."""
        ...

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """Unit of each example (N,) that a split must not cut, for example a recording; or None."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs (B, ...) and targets (B, ...) of the examples at `indices` (B,), in that order."""
        ...


def class_labels(y: NDArray[Any]) -> NDArray[np.int64] | None:
    """`y` as classes (N,) if it holds one integer an example, else None."""
    return y.astype(np.int64) if y.ndim == 1 and np.issubdtype(y.dtype, np.integer) else None


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples in memory.

    Attributes:
        x: inputs (N, ...), any dtype.
        y: targets: int64 classes (N,), or float32 values (N,) or (N, K).
        groups: natural owner of each example (N,) int64, or None.
        blocks: indivisible unit of each example (N,) int64, or None.
        class_names: names of the classes by index; empty where unknown.

    Raises:
        DataError: the lengths differ or there is no example.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    groups: NDArray[np.int64] | None = None
    blocks: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {"x": self.x, "y": self.y, "groups": self.groups, "blocks": self.blocks}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) != 1:
            raise DataError(f"x, y, groups and blocks need one row an example, but have {lengths}")

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each example (N,), or None where `y` is no vector of integers."""
        return class_labels(self.y)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at `indices`."""
        return self.x[indices], self.y[indices]


@dataclass(frozen=True, eq=False)
class LazySamples:
    """Samples whose inputs are made when they are fetched.

    Attributes:
        fetch: index -> input array of one example (the same shape for all).
        y: targets, as in `ArraySamples`.
        groups: natural owner of each example (N,), or None.
        blocks: indivisible unit of each example (N,), or None.
        class_names: names of the classes by index; empty where unknown.
    """

    fetch: Callable[[int], NDArray[Any]]
    y: NDArray[Any]
    groups: NDArray[np.int64] | None = None
    blocks: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each example (N,), or None where `y` is no vector of integers."""
        return class_labels(self.y)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at `indices`."""
        return np.stack([self.fetch(int(index)) for index in indices]), self.y[indices]


@dataclass(frozen=True, eq=False)
class View:
    """Some examples of other samples, by index and without a copy."""

    base: Samples
    indices: Indices

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each example in the view."""
        return _pick(self.base.labels, self.indices)

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Natural owner of each example in the view."""
        return _pick(self.base.groups, self.indices)

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """Indivisible unit of each example in the view."""
        return _pick(self.base.blocks, self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at `indices` of the view."""
        return self.base.take(self.indices[indices])


def _pick(column: NDArray[np.int64] | None, indices: Indices) -> NDArray[np.int64] | None:
    return None if column is None else column[indices]


@dataclass(frozen=True, eq=False)
class Data:
    """A task's whole data: what is cut into shards, and a held-out test set.

    Attributes:
        train: the examples that the clients share out among them.
        test: held-out examples; no client ever trains on them.
        ordered: examples stand in time order, so a shard's validation part is its tail.
        class_names: names of the classes by index, for reports; empty where unknown.
    """

    train: Samples
    test: Samples
    ordered: bool = False
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Shard:
    """One node's private data.

    Attributes:
        train: what the node trains on.
        validation: what the node measures on; may be empty for a tiny shard.
    """

    train: Samples
    validation: Samples
