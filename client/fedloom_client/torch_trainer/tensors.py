"""Samples as tensors: made once where they fit in memory, batch by batch where they do not."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom_client.data.samples import ArraySamples, Indices, Samples, View
from fedloom_edge.errors import DataError

Pair = tuple[Tensor, Tensor]
Fetch = Callable[[Indices], Pair]
"""indices (B,) -> inputs (B, ...) and targets (B, ...), memory that the caller may overwrite."""

_KEPT_BYTES = 1 << 30  # of all samples together; the rest is read again in every epoch


class TensorCache:
    """The tensors of samples, kept from round to round, for as long as the samples live."""

    def __init__(self, target_type: type[np.generic]) -> None:
        self._target_type = target_type
        self._kept: dict[int, Pair] = {}  # by identity: samples need be neither hashable nor comparable

    def fetch(self, samples: Samples) -> Fetch:
        """A function that gives batches of `samples`."""
        if isinstance(samples, View) and isinstance(samples.base, ArraySamples):
            # Of what lies in memory a copy for every client that has a part of it would be a second.
            whole, places = self.fetch(samples.base), samples.indices
            return lambda indices: whole(places[indices])
        if (pair := self._pair(samples)) is None:
            return lambda indices: self._convert(samples, indices)
        x, y = pair

        def batch(indices: Indices) -> Pair:
            rows = torch.from_numpy(indices)
            return x.index_select(0, rows), y.index_select(0, rows)

        return batch

    def in_order(self, samples: Samples, size: int) -> Iterator[Pair]:
        """All of `samples`, so many at a time; memory that the caller must not overwrite."""
        if (pair := self._pair(samples)) is not None:
            yield from zip(*(torch.split(part, size) for part in pair), strict=True)
            return
        for start in range(0, len(samples), size):
            yield self._convert(samples, np.arange(start, min(start + size, len(samples))))

    def _pair(self, samples: Samples) -> Pair | None:
        """The whole samples; None where they do not fit."""
        if (pair := self._kept.get(id(samples))) is None and self._fits(samples):
            pair = self._whole(samples)
            with suppress(TypeError):  # an object that nothing can refer to weakly is converted anew
                weakref.finalize(samples, self._kept.pop, id(samples), None)
                self._kept[id(samples)] = pair
        return pair

    def _fits(self, samples: Samples) -> bool:
        kept = sum(x.nbytes + y.nbytes for x, y in self._kept.values())
        x, y = self._convert(samples, np.arange(1))
        return kept + len(samples) * (x.nbytes + y.nbytes) <= _KEPT_BYTES

    def _whole(self, samples: Samples) -> Pair:
        """All of the samples, in their own memory where it can be used: copies of much data take seconds."""
        if isinstance(samples, ArraySamples) and samples.x.dtype.kind in "fiub":
            kind = np.float32 if samples.x.dtype.kind == "f" else np.int64
            return _view(samples.x, kind), _view(samples.y, self._target_type)
        return self._convert(samples, np.arange(len(samples)))

    def _convert(self, samples: Samples, indices: Indices) -> Pair:
        x, y = samples.take(indices)
        return input_tensor(x), _tensor(y, self._target_type)


def input_tensor(x: NDArray[Any]) -> Tensor:
    """float32 of floating-point arrays, int64 of integers and booleans (token ids).

    Raises:
        DataError: the array holds no numbers.
    """
    if x.dtype.kind not in "fiub":
        raise DataError(
            f"inputs of dtype {x.dtype} are no numbers; give the task a preprocess, e.g. Vocabulary"
        )
    return _tensor(x, np.float32 if x.dtype.kind == "f" else np.int64)


def _view(array: NDArray[Any], dtype: type[np.generic]) -> Tensor:
    """Like `_tensor`, of an array that nobody changes."""
    usable = array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
    return torch.from_numpy(array) if usable else _tensor(array, dtype)


def _tensor(array: NDArray[Any], dtype: type[np.generic]) -> Tensor:
    # A copy: torch cannot hold read-only memory, and what is kept must not change with its source.
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))
