"""An update as whole numbers modulo 2**32, so that masks hide it perfectly and sums of it are exact."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom_client.secure.masks import Vector
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import TrainingError

MOST_CLIENTS = 1 << 16
"""In one sum: the limbs of a tally are 16 bits of 32."""
MOST_EXAMPLES = 1 << 32
_LIMBS, _LIMB = 5, 16  # a tally is a whole number of 80 bits
_TALLIES = 3  # examples, loss times examples, whether the difference was clipped
_LOSS_UNIT, _LARGEST_LOSS = 2.0**-20, 2.0**10
_ROOM = 16.0  # how much larger than the largest of an array a statistic may become in a round
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Total:
    """What the sum of a round's vectors says.

    Attributes:
        arrays: the weighted mean of the updates.
        examples: of all clients together.
        loss: weighted mean of their training losses.
        clipped: how many of them clipped their difference.
    """

    arrays: Arrays
    examples: int
    loss: float
    clipped: int


@dataclass(frozen=True, kw_only=True)
class Ring:
    """How updates of the global arrays become vectors, the same on both ends.

    A client's difference d to the global arrays is clipped to the L2 norm `clip`, and each element
    becomes the whole number `w d / (W clip) L`, with w the client's examples, W = `heaviest`, and
    `L = (2**31 - 1) // clients` steps. It is rounded up or down at random, so that the expectation is
    exact (Connolly, Higham & Mary, 2021, "Stochastic rounding and its probabilistic backward error
    analysis"). No sum over `clients` vectors can wrap around. In the mean an element's rounding has a
    standard deviation of at most `clip sqrt(n) (W / mean w) / 2**32`.

    Statistics (batch norm's) are measured and do not count for the norm; each of their elements may move
    by 16 times its array's largest magnitude (at least 16) in a round.

    Behind the elements stand three tallies, whole numbers in limbs of 16 bits, which are summed exactly:
    examples, loss times examples, and 1 where the difference was clipped.

    Attributes:
        origin: the global arrays.
        statistics: names of arrays that are measured and not trained.
        clip: largest L2 norm of a difference, > 0.
        heaviest: most examples that count; 1 for clients that weigh alike.
        clients: how many vectors are summed at most.
    """

    origin: Arrays
    statistics: frozenset[str]
    clip: float
    heaviest: int
    clients: int

    def __post_init__(self) -> None:
        sane = math.isfinite(self.clip) and self.clip > 0
        if not (sane and 0 < self.heaviest <= MOST_EXAMPLES and 0 < self.clients <= MOST_CLIENTS):
            raise TrainingError(
                f"secure aggregation: no sum of {self.clients} clients with at most {self.heaviest} examples "
                f"and norms of {self.clip:g} can be made"
            )

    @property
    def size(self) -> int:
        """Elements of a vector."""
        return sum(array.size for array in self.origin.values()) + _TALLIES * _LIMBS

    @property
    def steps(self) -> int:
        """Largest magnitude of an element of a vector."""
        return (2**31 - 1) // self.clients

    def encode(self, arrays: Arrays, examples: int, loss: float, seed: int) -> Vector:
        """A client's vector (size,); `seed` decides how elements are rounded.

        Raises:
            TrainingError: the update is not finite.
        """
        norm = math.sqrt(sum(self._square(name, arrays[name]) for name in self.origin))
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise TrainingError("the update has values that are not finite")
        shrink = min(1.0, self.clip / norm) if norm else 1.0
        weight = min(examples, self.heaviest)
        most = weight / self.heaviest * self.steps
        vector = np.empty(self.size, np.uint32)
        draw = np.random.default_rng(seed)
        start = 0
        for name, reference in self.origin.items():
            factor = (1.0 if name in self.statistics else shrink) * most / self._bound(name)
            part = vector[start : start + reference.size]
            _round(part, arrays[name].reshape(-1), reference.reshape(-1), factor, most, draw)
            start += reference.size
        capped = min(max(loss, -_LARGEST_LOSS), _LARGEST_LOSS)
        tallies = (weight, weight * round(capped / _LOSS_UNIT), int(shrink < 1))
        vector[start:] = [limb for tally in tallies for limb in _limbs(tally)]
        return vector

    def decode(self, total: Vector) -> Total:
        """What a sum of vectors says.

        Raises:
            ValueError: it is no sum of updates.
        """
        tail = self.size - _TALLIES * _LIMBS
        examples, loss, clipped = (
            _number(total[tail + place * _LIMBS :][:_LIMBS].tolist()) for place in range(_TALLIES)
        )
        if not 1 <= examples <= self.clients * self.heaviest:
            raise ValueError(f"a sum of {examples} examples")
        arrays: Arrays = {}
        start = 0
        for name, reference in self.origin.items():
            whole = total[start : start + reference.size].view(np.int32).astype(np.float64)
            unit = self._bound(name) * self.heaviest / self.steps / examples
            moved = reference + (whole * unit).reshape(reference.shape)
            arrays[name] = np.asarray(moved, reference.dtype)
            start += reference.size
        return Total(arrays, examples, loss * _LOSS_UNIT / examples, clipped)

    def _bound(self, name: str) -> float:
        """Largest magnitude of a difference in this array."""
        if name not in self.statistics:
            return self.clip
        return _ROOM * max(float(np.abs(self.origin[name]).max(initial=0)), 1.0)

    def _square(self, name: str, array: NDArray[np.floating]) -> float:
        """Squared length of the difference; 0 or NaN of a statistic."""
        total = 0.0
        flat, origin = array.reshape(-1), self.origin[name].reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            far = np.subtract(flat[part], origin[part], dtype=np.float64)
            # Not a product by BLAS, which wakes threads for a vector of this length.
            total += float(np.einsum("i,i->", far, far))
        return total if name not in self.statistics or not math.isfinite(total) else 0.0


def _round(
    out: Vector,
    array: NDArray[np.floating],
    origin: NDArray[np.floating],
    factor: float,
    most: float,
    draw: np.random.Generator,
) -> None:
    """Differences times a factor, at most `most`, as whole numbers."""
    for start in range(0, array.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        scaled = np.subtract(array[part], origin[part], dtype=np.float64)
        scaled *= factor
        np.clip(scaled, -most, most, out=scaled)
        scaled += draw.random(scaled.size, np.float32)
        out[part] = np.floor(scaled, out=scaled).astype(np.int32).view(np.uint32)


def _limbs(number: int) -> list[int]:
    return [number >> _LIMB * place & 0xFFFF for place in range(_LIMBS)]


def _number(limbs: list[int]) -> int:
    bits = _LIMBS * _LIMB
    value = sum(limb << _LIMB * place for place, limb in enumerate(limbs)) % (1 << bits)
    return value - (1 << bits) if value >> bits - 1 else value
