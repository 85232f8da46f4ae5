"""A map-style torch Dataset."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import LazySamples
from fedloom_edge.errors import DataError

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def torch_dataset(dataset: "Dataset[Any]") -> LazySamples:
    """Samples of a `torch.utils.data.Dataset` whose items are (input, target).

    Inputs are fetched when they are needed. Targets are read once, from the data set's `targets` or
    `labels` if these are what its items hold.

    Raises:
        DataError: the data set has no length or no items, an item is no pair, or a target no number.
    """
    if not hasattr(dataset, "__len__"):
        raise DataError(
            f"{type(dataset).__name__} has no length; give a map-style data set (__len__, __getitem__)"
        )
    if len(dataset) == 0:
        raise DataError(f"{type(dataset).__name__} is empty; give it at least two items")
    y = _targets(dataset)
    if y.dtype.kind not in "biuf":
        raise DataError(
            f"the targets of {type(dataset).__name__} are no numbers ({y.flat[0]!r}); number them"
        )
    y = y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
    return LazySamples(lambda index: _item(dataset, index)[0], y)


def _targets(dataset: Any) -> NDArray[Any]:
    """Targets (N, ...), from a column if it agrees with the items.

    `labels` may be the classes' names, and a `target_transform` leaves `targets` as they were.
    """
    first = np.asarray(_item(dataset, 0)[1])
    if getattr(dataset, "target_transform", None) is None:
        for name in ("targets", "labels"):
            column = np.asarray(getattr(dataset, name, None))
            if column.shape[:1] == (len(dataset),) and np.array_equal(column[0], first):
                return column
    return np.stack([np.asarray(_item(dataset, index)[1]) for index in range(len(dataset))])


def _item(dataset: Any, index: int) -> tuple[NDArray[Any], Any]:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            f"item {index} of {type(dataset).__name__} is {type(item).__name__}; give (input, target)"
        )
    return np.asarray(item[0]), item[1]
