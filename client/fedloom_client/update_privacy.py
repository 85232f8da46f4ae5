"""What a client does to its update for privacy before anybody sees it: clipping, and noise if it is asked to.

The L2 norm of an update, its difference to the global arrays, is bounded over all arrays together
("flat clipping"; McMahan et al., 2018, "Learning differentially private recurrent language models").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fedloom_client.noise import Noise
from fedloom_edge.arrays import Arrays

CLIPPED = "clipped"
"""A client's figure: 1 where its update was longer than the bound, else 0."""
PREFIX = "privacy."
"""What the keys of these settings begin with in a message."""


@dataclass(frozen=True, kw_only=True)
class UpdatePrivacy:
    """What is asked of clients.

    Attributes:
        clip: bound on an update's norm, > 0.
        noise: standard deviation of the Gaussian noise on every element, as a multiple of `clip`; 0 where
            the coordinator adds it.
    """

    clip: float
    noise: float = 0.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self | None:
        """What a message's settings ask for; None for nothing."""
        if f"{PREFIX}clip" not in config:
            return None
        return cls(clip=float(config[f"{PREFIX}clip"]), noise=float(config.get(f"{PREFIX}noise", 0.0)))

    def to_config(self) -> dict[str, str | int | float]:
        """Flat values for a message's settings."""
        return {f"{PREFIX}clip": self.clip, f"{PREFIX}noise": self.noise}

    def apply(self, before: Arrays, after: Arrays, source: Noise) -> tuple[Arrays, bool]:
        """The arrays to send instead of `after`, and whether they had to be clipped."""
        difference, clipped = clipped_difference(before, after, self.clip)
        if self.noise:
            difference = source.added(difference, self.noise * self.clip)
        return moved(before, difference), clipped


def clipped_difference(before: Arrays, after: Arrays, bound: float) -> tuple[Arrays, bool]:
    """`after - before` in float64, scaled down to an L2 norm of `bound` where longer; and whether it was."""
    difference = {name: after[name].astype(np.float64) - array for name, array in before.items()}
    norm = math.hypot(*(float(np.linalg.norm(array)) for array in difference.values()))
    if norm <= bound:
        return difference, False
    return {name: array * (bound / norm) for name, array in difference.items()}, True


def moved(before: Arrays, difference: Arrays) -> Arrays:
    """`before + difference` in the dtypes of `before`."""
    return {name: (array + difference[name]).astype(array.dtype) for name, array in before.items()}
