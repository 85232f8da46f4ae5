"""A Hugging Face data set, through flwr-datasets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import LazySamples
from fedloom_client.sources.images import pixels
from fedloom_edge.errors import DataError, InputError, unknown

if TYPE_CHECKING:
    from datasets import Dataset


def hub(
    name: "str | Dataset",
    *,
    split: str = "train",
    target: str = "label",
    features: str | Sequence[str] | None = None,
    group: str | None = None,
    **load: Any,
) -> LazySamples:
    """Samples of a Hugging Face data set: its hub name, one already loaded, or local files.

    Args:
        name: `mnist`, `user/name`, a loader (`csv`, `parquet`, `imagefolder` with `data_files=` or
            `data_dir=`), or a loaded `datasets.Dataset`.
        split: part to read.
        target: column to predict.
        features: column of images (C, H, W in [0, 1]), texts or vectors; several columns of numbers
            are stacked (F,); default: the only column left.
        group: column that says whose an example is.
        load: more for `datasets.load_dataset`.

    Raises:
        InputError: flwr-datasets is not installed.
        DataError: the data set cannot be loaded, or a column is not there.
    """
    try:
        from datasets import Dataset, config
        from datasets.exceptions import DatasetsError
        from flwr_datasets import FederatedDataset
    except ModuleNotFoundError as error:
        raise InputError("Hugging Face data sets need flwr-datasets: pip install 'fedloom[hub]'") from error
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it reports every load, of a local file too, to a server
    if isinstance(name, Dataset):
        dataset = name
    else:
        try:
            # One partition, in order: fedloom cuts the shards itself, so that no row is lost.
            whole = FederatedDataset(dataset=name, partitioners={split: 1}, shuffle=False, **load)
            dataset = whole.load_split(split)
        except (DatasetsError, OSError, ValueError) as error:
            raise DataError(
                f"Hugging Face data set {name!r} cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
    return _samples(dataset, target, features, group)


def _samples(
    dataset: Any, target: str, features: str | Sequence[str] | None, group: str | None
) -> LazySamples:
    columns: list[str] = list(dataset.column_names)
    chosen = [c for c in columns if c not in (target, group)] if features is None else features
    chosen = [chosen] if isinstance(chosen, str) else list(chosen)
    for column in (target, *chosen, *([group] if group else [])):
        if column not in columns:
            raise DataError(str(unknown("column", column, columns)))
    if not chosen:
        raise DataError(f"no column is left to predict {target!r} from; the data set has {columns}")
    for column in (target, *([group] if group else [])):
        if None in (cells := dataset[column][:]):
            raise DataError(f"row {cells.index(None)}, column {column!r} is empty; fill it or drop the row")
    y = np.asarray(dataset[target][:])
    names = tuple(str(name) for name in getattr(dataset.features[target], "names", ()))
    if not np.issubdtype(y.dtype, np.number):
        words, y = np.unique(y, return_inverse=True)
        names = tuple(str(word) for word in words)
    y = y.astype(np.int64 if np.issubdtype(y.dtype, np.integer) else np.float32)
    groups = np.unique(dataset[group][:], return_inverse=True)[1].astype(np.int64) if group else None
    return LazySamples(lambda index: _input(dataset[index], chosen), y, groups=groups, class_names=names)


def _input(row: dict[str, Any], columns: list[str]) -> NDArray[Any]:
    if len(columns) > 1:
        return np.array([row[column] for column in columns], np.float32)
    value = row[columns[0]]
    if isinstance(value, str):
        return np.asarray(value)
    if hasattr(value, "convert"):  # an image
        return pixels(value, gray=value.mode != "P" and len(value.getbands()) == 1)
    array = np.asarray(value)
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)
