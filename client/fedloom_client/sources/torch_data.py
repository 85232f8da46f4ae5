"""A map-style torch Dataset."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.samples import LazySamples
from fedloom_edge.errors import DataError

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def torch_dataset(dataset: "Dataset[Any]") -> LazySamples:
    """Samples of a `torch.utils.data.Dataset` whose items are (input, target).

    Inputs are fetched when they are needed. Targets are read once, from the data set's `targets` or
    `labels` if it has them.

    Raises:
        DataError: the data set has no length, or an item is no pair.
    """
    if not hasattr(dataset, "__len__"):
        raise DataError(
            f"{type(dataset).__name__} has no length; give a map-style data set (__len__, __getitem__)"
        )
    targets = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if targets is None:
        targets = [_item(dataset, index)[1] for index in range(len(dataset))]
    y = np.stack([np.asarray(target) for target in targets])
    y = y.astype(np.int64 if np.issubdtype(y.dtype, np.integer) else np.float32)
    return LazySamples(lambda index: _item(dataset, index)[0], y)


def _item(dataset: Any, index: int) -> tuple[NDArray[Any], Any]:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            f"item {index} of {type(dataset).__name__} is {type(item).__name__}; give (input, target)"
        )
    return np.asarray(item[0]), item[1]
