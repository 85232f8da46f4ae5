"""Noise for privacy: from a seed where a run must be reproducible, from the operating system on devices."""

import os

import numpy as np
from numpy.typing import NDArray

from fedloom_client.seeds import derive_seed
from fedloom_edge.arrays import Arrays

Numbers = NDArray[np.float64]
_UNIT = 2.0**-53  # between two neighbouring uniform numbers


class Noise:
    """Draws for a mechanism, independent of everything else that is drawn.

    Args:
        seed: what they follow from, for a simulation that must be the same whenever it is repeated.
            None for the operating system's entropy: nobody who knows a run's seed can subtract them.
    """

    def __init__(self, seed: int | None) -> None:
        self._generator = None if seed is None else np.random.default_rng(derive_seed(seed, "noise"))

    def uniform(self, count: int) -> Numbers:
        """`count` numbers in [0, 1)."""
        if self._generator is not None:
            return self._generator.random(count)
        words = np.frombuffer(os.urandom(8 * count), np.uint64)
        return np.asarray((words >> np.uint64(11)) * _UNIT, np.float64)

    def normal(self, shape: tuple[int, ...], deviation: float) -> Numbers:
        """Gaussian numbers of mean 0, by Box and Muller (1958) where the operating system gives the bits."""
        if self._generator is not None:
            return self._generator.normal(0.0, deviation, shape)
        count = int(np.prod(shape))
        half = -(-count // 2)
        radius = deviation * np.sqrt(-2 * np.log1p(-self.uniform(half)))  # of 1 - u, which is never 0
        angle = 2 * np.pi * self.uniform(half)
        pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return pairs[:count].reshape(shape)

    def added(self, arrays: Arrays, deviation: float) -> Arrays:
        """Arrays in float64 with noise on every element."""
        return {name: array + self.normal(array.shape, deviation) for name, array in arrays.items()}
