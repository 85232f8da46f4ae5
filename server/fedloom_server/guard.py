"""The guard: looks at every update before a strategy does, and refuses what could harm the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedloom_client.records import to_numpy
from fedloom_edge.arrays import Arrays

MAX_EXAMPLES = 10**9
"""Largest example count that a client may claim."""


@dataclass(frozen=True)
class Guard:
    """Accepts exactly the task's arrays, finite, with a sane example count.

    Flower itself averages a NaN into the model, broadcasts a `(1,)` array over a layer, and lets a
    negative example count flip the update's sign.

    Attributes:
        expected: name -> (shape, dtype) of the global arrays.
    """

    expected: Mapping[str, tuple[tuple[int, ...], str]]

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """A guard for the updates of these global arrays."""
        return cls({name: (array.shape, array.dtype.str) for name, array in arrays.items()})

    def refuses_update(self, reply: Message) -> str:
        """Why a reply to `train` must not reach a strategy; empty if it may."""
        names = _names(reply, ArrayRecord)
        if names != ["arrays"]:
            return f"records: expected one ArrayRecord 'arrays', got {sorted(names)}"
        record: Any = reply.content["arrays"]
        return _metrics_fault(reply, minimum=1) or self._arrays_fault(record)

    def refuses_evaluation(self, reply: Message) -> str:
        """Why a reply to `evaluate` must not reach a strategy; empty if it may."""
        return _metrics_fault(reply, minimum=0)

    def _arrays_fault(self, record: ArrayRecord) -> str:
        if list(record) != list(self.expected):
            odd = sorted(set(record) ^ set(self.expected)) or "in another order"
            return f"names: arrays differ from the task's: {odd}"
        for name, entry in record.items():
            shape, dtype = self.expected[name]
            try:
                array: NDArray[Any] = to_numpy(entry)
            except (ValueError, TypeError, OSError, EOFError) as error:
                return f"bytes: array {name!r} cannot be read ({error})"
            if (array.shape, array.dtype.str) != (shape, dtype):
                return (
                    f"shape: array {name!r} is {array.dtype.str}{array.shape}, the task's is {dtype}{shape}"
                )
            if bad := int(array.size - np.count_nonzero(np.isfinite(array))):
                return f"finite: array {name!r} has {bad} values that are not finite"
        return ""


def _names(reply: Message, kind: type) -> list[str]:
    # Not content.array_records, which makes a new record of records each time.
    return [name for name, record in reply.content.items() if isinstance(record, kind)]


def _metrics_fault(reply: Message, minimum: int) -> str:
    names = _names(reply, MetricRecord)
    if names != ["metrics"]:
        return f"records: expected one MetricRecord 'metrics', got {sorted(names)}"
    metrics: Any = reply.content["metrics"]
    count = metrics.get("num-examples")
    if not isinstance(count, int) or not minimum <= count <= MAX_EXAMPLES:
        return (
            f"examples: num-examples is {count!r}, expected a whole number from {minimum} to {MAX_EXAMPLES}"
        )
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"metrics: {name} is {value!r}, expected a finite number"
    return ""
