"""The guard: looks at every update before a strategy does, and refuses what could harm the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedloom_client.flower.messages import ROUND
from fedloom_client.flower.records import count_bytes, from_record, to_numpy
from fedloom_edge.arrays import Arrays
from fedloom_server.rounds.stacked import StackedReplies

MAX_EXAMPLES = 10**9
"""Largest example count that a client may claim."""
GROWTH = 2
"""How much larger than at the start of a run a client's shard may be said to be."""
LARGEST = 2.0**128
"""Bound on any value's magnitude: what float32 can hold, also for wider dtypes."""
_SPARE_BYTES = 1 << 20  # metrics, names and framing beside the arrays
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Finding:
    """What the guard has to say of one reply.

    Attributes:
        reason: `rule: figure`, why it must not reach a strategy; empty if it may.
        norm: L2 norm of its difference to the global arrays; None where it was not measured.
    """

    reason: str
    norm: float | None = None


@dataclass(frozen=True)
class Guard:
    """Accepts exactly the task's arrays, finite, with a sane example count, for this round.

    Flower itself averages a NaN into the model, broadcasts a `(1,)` array over a layer, and lets a
    negative example count flip the update's sign. Whether a norm is an outlier is decided later,
    against the other clients' (`norms.py`).

    Attributes:
        reference: the global arrays that updates start from.
        metrics: names that every reply to `train` must report beside num-examples.
        declared: client -> examples that it said it has when the run began.
    """

    reference: Arrays
    metrics: Sequence[str] = ()
    declared: Mapping[int, int] = field(default_factory=dict[int, int])

    def check_update(self, reply: Message, round_number: int, client: int | None = None) -> Finding:
        """Judge a reply to `train`."""
        declared = MAX_EXAMPLES if client is None else self.declared.get(client, MAX_EXAMPLES)
        largest = min(GROWTH * declared, MAX_EXAMPLES)
        content: Any = reply.content
        reason = (
            _record_fault(_names(reply, ArrayRecord), "ArrayRecord", "arrays")
            or self._size_fault(reply)
            or _round_fault(reply, round_number)
            or _metrics_record_fault(reply)
            or _metrics_fault(content["metrics"], 1, largest, self.metrics)
            or self._layout_fault(content["arrays"])
        )
        return Finding(reason) if reason else self._measure(from_record(content["arrays"]))

    def check_stack(self, stack: StackedReplies, round_number: int, clients: Sequence[int]) -> list[Finding]:
        """Judge the replies of many clients to `train`: what `check_update` finds in each."""
        first = stack.message(0)  # names, shapes, dtypes and the round are the same for all
        record: Any = first.content["arrays"]
        shared = self._size_fault(first) or _round_fault(first, round_number) or self._layout_fault(record)
        norms = [] if shared else self._norms(stack.arrays)
        findings: list[Finding] = []
        for k, client in enumerate(clients):
            largest = min(GROWTH * self.declared.get(client, MAX_EXAMPLES), MAX_EXAMPLES)
            if reason := shared or _metrics_fault(stack.metrics[k], 1, largest, self.metrics):
                findings.append(Finding(reason))
            elif math.isfinite(norms[k]):
                findings.append(Finding("", norms[k]))
            else:
                findings.append(self._measure({name: array[k] for name, array in stack.arrays.items()}))
        return findings

    def check_masked(self, reply: Message, round_number: int) -> Finding:
        """Judge a reply to `train` under secure aggregation: of what is masked nothing but its form."""
        content: Any = reply.content
        return Finding(
            _record_fault(_names(reply, ArrayRecord), "ArrayRecord", "arrays")
            or self._size_fault(reply)
            or _round_fault(reply, round_number)
            or _metrics_record_fault(reply)
            or _metrics_fault(content["metrics"], 0, 0, ())
            or self._layout_fault(content["arrays"])
        )

    def check_evaluation(self, reply: Message, round_number: int) -> Finding:
        """Judge a reply to `evaluate`."""
        content: Any = reply.content
        return Finding(
            _round_fault(reply, round_number)
            or _metrics_record_fault(reply)
            or _metrics_fault(content["metrics"], 0, MAX_EXAMPLES, ("loss",))
        )

    def check_measured(self, stack: StackedReplies, round_number: int) -> list[Finding]:
        """Judge the replies of many clients to `evaluate`."""
        shared = _round_fault(stack.message(0), round_number)
        return [
            Finding(shared or _metrics_fault(metrics, 0, MAX_EXAMPLES, ("loss",)))
            for metrics in stack.metrics
        ]

    def _size_fault(self, reply: Message) -> str:
        size = sum(count_bytes(record) for record in reply.content.values())
        bound = _SPARE_BYTES + 2 * sum(array.nbytes for array in self.reference.values())
        return f"size: {size} bytes, at most {bound} are expected" if size > bound else ""

    def _layout_fault(self, record: ArrayRecord) -> str:
        if list(record) != list(self.reference):
            odd = sorted(set(record) ^ set(self.reference)) or "in another order"
            return f"names: arrays differ from the task's: {odd}"
        for name, entry in record.items():
            expected = self.reference[name]
            try:
                array: NDArray[Any] = to_numpy(entry)
            except (ValueError, TypeError, OSError, EOFError) as error:
                return f"bytes: array {name!r} cannot be read ({error})"
            if (array.shape, array.dtype.str) != (expected.shape, expected.dtype.str):
                return (
                    f"shape: array {name!r} is {array.dtype.str}{array.shape}, "
                    f"the task's is {expected.dtype.str}{expected.shape}"
                )
        return ""

    def _norms(self, stacks: Arrays) -> list[float]:
        """L2 norm of each client's difference; NaN for one that must be looked at closely."""
        if any(array.itemsize > 4 for array in stacks.values()):
            return [math.nan] * len(next(iter(stacks.values())))
        squares = sum(squared_distances(stack, self.reference[name]) for name, stack in stacks.items())
        with np.errstate(invalid="ignore"):
            norms: list[float] = np.sqrt(squares).tolist()
        return norms

    def _measure(self, arrays: Arrays) -> Finding:
        total = 0.0
        for name, array in arrays.items():
            square = float(squared_distances(array[np.newaxis], self.reference[name])[0])
            if not math.isfinite(square) or (array.itemsize > 4 and np.abs(array).max(initial=0) > LARGEST):
                if bad := int(array.size - np.isfinite(array).sum()):
                    return Finding(f"finite: array {name!r} has {bad} values that are not finite")
                return Finding(f"finite: array {name!r} has values beyond {LARGEST:.3g}")
            total += square
        return Finding("", math.sqrt(total))


def squared_distances(stack: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Sums (K,) of squared differences of arrays (K, *shape) in float64; NaN or infinite if a value is.

    Each is summed in the same order whatever K is.
    """
    flat, origin = stack.reshape(len(stack), -1), reference.reshape(-1)
    total = np.zeros(len(flat))
    rows = max(_CHUNK // max(origin.size, 1), 1)
    with np.errstate(all="ignore"):
        for top in range(0, len(flat), rows):
            for start in range(0, origin.size, _CHUNK):
                part = slice(start, start + _CHUNK)
                far = np.subtract(flat[top : top + rows, part], origin[part], dtype=np.float64)
                # Not a product by BLAS, which wakes threads for a vector of this length.
                total[top : top + rows] += np.einsum("ij,ij->i", far, far)
    return total


def _names(reply: Message, kind: type) -> list[str]:
    # Not content.array_records, which makes a new record of records each time.
    return [name for name, record in reply.content.items() if isinstance(record, kind)]


def _record_fault(names: list[str], kind: str, expected: str) -> str:
    return "" if names == [expected] else f"records: expected one {kind} {expected!r}, got {sorted(names)}"


def _round_fault(reply: Message, round_number: int) -> str:
    """A client names the round that it answers; one that does not is known by its message alone."""
    record = reply.content.get(ROUND)
    if not isinstance(record, ConfigRecord) or record.get(ROUND) == round_number:
        return ""
    return f"stale: the reply is to round {record.get(ROUND)!r}, this is round {round_number}"


def _metrics_record_fault(reply: Message) -> str:
    return _record_fault(_names(reply, MetricRecord), "MetricRecord", "metrics")


def _metrics_fault(metrics: Mapping[str, Any], minimum: int, maximum: int, required: Sequence[str]) -> str:
    count = metrics.get("num-examples")
    if not isinstance(count, int) or isinstance(count, bool) or not minimum <= count <= maximum:
        return f"examples: num-examples is {count!r}, expected a whole number from {minimum} to {maximum}"
    for name in required:
        if name not in metrics:
            return f"metrics: {name} is missing"
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"metrics: {name} is {value!r}, expected a finite number"
    return ""
