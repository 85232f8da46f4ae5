"""A weighted mean of arrays that streams and does not depend on the order of its terms, bit for bit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays

_CHUNK = 1 << 14  # elements worked on at a time: 128 KiB of float64 stay in the second-level cache
_ROWS = 1 << 10  # clients folded at a time; _ROWS * _EXACT must stay below _FULL
_EXACT = 2.0**51  # below it, adding _MAGIC rounds to an integer
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = int(np.float64(_MAGIC).view(np.uint64))
_STEP = 40  # bits between two limbs
_FULL = 1 << 62
_HEADROOM = 2  # bits: an update up to 4 times as large as the array itself stays in the first limb
_LARGEST = 2.0**160  # of weight * |update|: any finite float32 times 2**32


class ExactMean:
    """Weighted mean of updates, folded in one by one in memory that does not grow with their number.

    An update x with weight n of the reference g (the global arrays that it started from) is a term
    `p = n * (x - g)`, computed in float64 from that client's values alone. Before the first term, each
    array gets a grid `u`, a power of two that depends on g and on the largest weight expected, on
    nothing else. A term is rounded once to the integer `k = rint(p / u)`, and integers are summed:

        mean = g + u * sum(k) / sum(n)

    Why the order cannot matter: k depends on one client only, and addition of integers is associative
    and commutative. Sums are int64 limbs, 40 bits apart, the higher ones made when they are needed. A
    term too large for the first limb is cut from the top: `q = rint(p / (2**40 u))`, then
    `rint((p - 2**40 u q) / u)`. That difference is exact (a multiple of p's last bit, and not larger
    than p), and `2**40 q` is even, so both ways give the same k, ties included. Limbs are carried
    before they could overflow, and brought to their only form with digits in [-2**39, 2**39) before
    they become a float, so neither the path nor the time of a carry leaves a trace.

    How exact: the rounding is at most u / 2 a term. In the mean that is about 2**-48 of the array's
    largest magnitude where weights are alike: float32 results are as if summed in real numbers down to
    elements 2**24 times smaller than that. What no client changed comes out as g exactly. Adding
    `1.5 * 2**52` rounds to the nearest integer and leaves it in the low bits (Dekker, 1971); a common
    grid for reproducible sums is due to Demmel & Nguyen (2015, "Parallel reproducible summation").

    Raises:
        ValueError: a weight is not positive, or a term is not finite or beyond 2**160.
    """

    def __init__(self, reference: Mapping[str, NDArray[Any]], largest_weight: int) -> None:
        """Start from the arrays `reference`, any shapes, floating-point.

        `largest_weight` tunes the grid: weights beyond it are summed as exactly, only slower.
        """
        self.reference = dict(reference)
        self.weight = 0
        self.count = 0
        self._peaks = {name: _peak(array) for name, array in self.reference.items()}
        floor = max(self._peaks.values(), default=0.0) * 2.0**-20 or 1.0
        bits = _HEADROOM + max(largest_weight, 1).bit_length() - 51
        self._sums = {
            name: _Sum(array.size, math.ldexp(1.0, math.frexp(max(self._peaks[name], floor))[1] + bits))
            for name, array in self.reference.items()
        }

    def add(self, arrays: Mapping[str, NDArray[Any]], weight: int) -> None:
        """Fold in one client's arrays, names and shapes as the reference's."""
        self.add_stack({name: array[np.newaxis] for name, array in arrays.items()}, [weight])

    def add_stack(self, stacks: Mapping[str, NDArray[Any]], weights: Sequence[int] | NDArray[Any]) -> None:
        """Fold in C clients at once: each array (C, *shape), weights (C,) whole numbers.

        The result is that of C calls of `add`. Nothing is folded in where an error is raised.
        """
        counts = [int(weight) for weight in weights]
        if any(weight < 1 for weight in counts):
            raise ValueError(f"weights must be positive, got {min(counts)}")
        factors = np.array(counts, np.float64)[:, np.newaxis]
        flat = {name: stack.reshape(len(counts), -1) for name, stack in stacks.items()}
        largest = max(counts, default=1)
        bounds = {name: self._bound(name, rows, largest) for name, rows in flat.items()}
        for name, total in self._sums.items():
            together = min(max(_CHUNK // max(self.reference[name].size, 1), 1), _ROWS)
            for start in range(0, len(counts), together):
                part = slice(start, start + together)
                total.add(flat[name][part], self.reference[name].reshape(-1), factors[part], bounds[name])
        self.weight += sum(counts)
        self.count += len(counts)

    def merge(self, other: "ExactMean") -> None:
        """Fold in all that `other` has, which was made with the same reference and largest weight."""
        for name, total in self._sums.items():
            total.merge(other._sums[name])
        self.weight += other.weight
        self.count += other.count

    def mean(self, scaled: "Sequence[tuple[ExactMean, float]]" = ()) -> Arrays:
        """The mean so far, in the reference's names, order, shapes and dtypes.

        `scaled` are further sums whose updates count with their weights and with their differences to
        the reference times a factor; they are added in the order given.

        Raises:
            ValueError: nothing was folded in.
        """
        weight = self.weight + sum(other.weight for other, _ in scaled)
        if not weight:
            raise ValueError("a mean of no updates")
        result: Arrays = {}
        for name, array in self.reference.items():
            total = self._sums[name].value()
            for other, factor in scaled:
                total = total + factor * other._sums[name].value()
            # A sum of arrays without axes is a scalar of numpy, no array.
            result[name] = np.asarray(array + total.reshape(array.shape) / weight, array.dtype)
        return result

    def state(self) -> Arrays:
        """What has been folded in, as arrays to keep; equal sets of updates give equal bytes."""
        limbs = {
            f"{index}/{name}": limb
            for name, total in self._sums.items()
            for index, limb in enumerate(total.digits())
        }
        return {"weight": np.array(self.weight, np.int64), "count": np.array(self.count, np.int64), **limbs}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, with the same reference and largest weight."""
        self.weight, self.count = int(state["weight"]), int(state["count"])
        limbs: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self._sums}
        for key, limb in state.items():
            if "/" in key:
                limbs[key.partition("/")[2]].append(limb)
        for name, total in self._sums.items():
            total.restore(limbs[name])

    def _bound(self, name: str, rows: NDArray[Any], weight: int) -> float:
        """What no term of these rows exceeds in magnitude, but for rounding."""
        # Both bounds at once, and a NaN fails every comparison.
        if not (peak := _peak(rows)) * weight < _LARGEST:
            raise ValueError(f"array {name!r} has values that are not finite or too large to sum")
        return (peak + self._peaks[name]) * weight


class _Sum:
    """The integer sum of one array's terms: limb j counts `2**(40 j)` units."""

    def __init__(self, size: int, unit: float) -> None:
        self.unit = unit
        # Unsigned, because the first limb holds each term with _MAGIC's bits and wraps around.
        self._first = np.zeros(size, np.uint64)
        self._terms = 0
        self._higher: list[NDArray[np.int64]] = []
        self._bounds = [0]  # of each limb's magnitude

    def add(
        self, rows: NDArray[Any], reference: NDArray[Any], weights: NDArray[np.float64], bound: float
    ) -> None:
        """Fold in rows (C, size) with weights (C, 1); no term exceeds `bound`, but for rounding."""
        self._make_room(len(rows))
        factors = weights / self.unit
        small = bound < 0.99 * _EXACT * self.unit  # so every term fits the first limb: none needs a look
        width = max(_CHUNK // len(rows), 1)
        for start in range(0, rows.shape[1], width):
            part = slice(start, start + width)
            terms = np.subtract(rows[:, part], reference[part], dtype=np.float64)
            terms *= factors
            if not small and not (peak := _peak(terms)) < _EXACT:
                self._cut(terms, part, peak)
            terms += _MAGIC
            bits = terms.view(np.uint64)
            self._first[part] += bits[0] if len(rows) == 1 else bits.sum(axis=0, dtype=np.uint64)
        self._terms += len(rows)

    def merge(self, other: "_Sum") -> None:
        """Add another sum's integer to this one's."""
        limbs, more = self.digits(), other.digits()
        for index, limb in enumerate(more):
            if index < len(limbs):
                limbs[index] = limbs[index] + limb
            else:
                limbs.append(limb)
        self.restore(limbs)
        self.digits()

    def _make_room(self, terms: int) -> None:
        """Carry where `terms` more could overflow a limb."""
        self._bounds = [bound + terms * int(_EXACT) for bound in self._bounds]
        if max(self._bounds) >= _FULL:
            self.digits()
            self._bounds = [bound + terms * int(_EXACT) for bound in self._bounds]

    def _cut(self, terms: NDArray[np.float64], part: slice, peak: float) -> None:
        """Move what is too large for the first limb into the higher ones; `terms` keeps the rest."""
        top = 1
        while peak >= math.ldexp(_EXACT, _STEP * top):
            top += 1
        for level in range(top, 0, -1):
            if level > len(self._higher):
                self._grow(level)
            quantum = math.ldexp(1.0, _STEP * level)
            quotients = np.rint(terms / quantum)
            self._higher[level - 1][part] += quotients.astype(np.int64).sum(axis=0)
            terms -= quotients * quantum

    def _grow(self, levels: int) -> None:
        while len(self._higher) < levels:
            self._higher.append(np.zeros(self._first.size, np.int64))
            self._bounds.append(_ROWS * int(_EXACT))

    def digits(self) -> list[NDArray[np.int64]]:
        """Carry: the limbs in their only form, all but the highest in [-2**39, 2**39)."""
        limbs = [(self._first - np.uint64(self._terms * _MAGIC_BITS % 2**64)).view(np.int64), *self._higher]
        level = 0
        while level < len(limbs):
            carry = (limbs[level] + (1 << (_STEP - 1))) >> _STEP
            if carry.any():
                limbs[level] = limbs[level] - (carry << _STEP)
                if level + 1 == len(limbs):
                    limbs.append(np.zeros_like(carry))
                limbs[level + 1] = limbs[level + 1] + carry
            level += 1
        while len(limbs) > 1 and not limbs[-1].any():
            limbs.pop()
        self.restore(limbs)
        return limbs

    def restore(self, limbs: list[NDArray[np.int64]]) -> None:
        """Take `digits` as the sum."""
        self._first = limbs[0].view(np.uint64).copy()
        self._terms = 0
        self._higher = [limb.copy() for limb in limbs[1:]]
        self._bounds = [1 << _STEP] * (len(limbs) - 1) + [int(_peak(limbs[-1])) + (1 << _STEP)]

    def value(self) -> NDArray[np.float64]:
        """The sum of the rounded terms, in the reference's unit."""
        total = np.zeros(self._first.size)
        for limb in reversed(self.digits()):
            total = total * 2.0**_STEP + limb
        return total * self.unit


def _peak(array: NDArray[Any]) -> float:
    """Largest magnitude; 0 for an empty array."""
    return max(float(array.max()), -float(array.min())) if array.size else 0.0
