"""Features of a frozen backbone, computed once and kept in a bounded file that is mapped into memory."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import ArraySamples, Indices, LazySamples, Samples, View
from fedloom_edge.errors import RunError

_BATCH = 32


class Features:
    """Samples whose inputs are features. Those that the file has no room for are computed at each fetch.

    The file has no name, so nothing is left when the process ends, however it ends.

    Args:
        samples: inputs for the backbone.
        compute: inputs (B, ...) -> features (B, ...), float32.
        folder: where the file is made.
        limit: most bytes of the file.

    Attributes:
        cached: samples whose features are in the file.
        bytes: size of the file.

    Raises:
        RunError: the disk has no room for the file.
    """

    groups = None
    blocks = None

    def __init__(
        self,
        samples: Samples,
        compute: Callable[[NDArray[Any]], NDArray[Any]],
        folder: Path,
        limit: int,
    ) -> None:
        self._samples, self._compute = samples, compute
        first = compute(samples.take(np.arange(1))[0])
        row = max(first[0].nbytes, 1)
        self.cached = min(len(samples), limit // row)
        self.bytes = self.cached * row
        if self.cached:
            shape = (self.cached, *first.shape[1:])
            self._kept: NDArray[Any] = np.memmap(_reserved(folder, self.bytes), first.dtype, shape=shape)
        for start in range(0, self.cached, _BATCH):
            some = np.arange(start, min(start + _BATCH, self.cached))
            self._kept[some] = compute(samples.take(some)[0])

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each example (N,), or None."""
        return self._samples.labels

    def __len__(self) -> int:
        return len(self._samples)

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features (B, ...) and targets (B, ...) at `indices`."""
        here = indices < self.cached
        if here.all():
            return self._kept[indices], _targets(self._samples, indices)
        x, y = self._samples.take(indices)
        features = self._compute(x[~here])
        whole = np.empty((len(indices), *features.shape[1:]), features.dtype)
        whole[~here] = features
        if here.any():
            whole[here] = self._kept[indices[here]]
        return whole, y


def _targets(samples: Samples, indices: Indices) -> NDArray[Any]:
    """Targets without the inputs, where the samples have them apart: an image need not be decoded again."""
    if isinstance(samples, View):
        return _targets(samples.base, samples.indices[indices])
    if isinstance(samples, ArraySamples | LazySamples):
        return samples.y[indices]
    return samples.take(indices)[1]


def _reserved(folder: Path, size: int) -> Any:
    """An unnamed file whose blocks are there: a map of one without them dies when the disk is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as its map)
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise RunError(
            f"--cache-dir {folder}: no room for {size / 1e6:.1f} MB of features ({error.strerror}); "
            "free space, name another folder, or lower --cache-mb (0 computes them anew in every epoch)"
        ) from error
    return file
