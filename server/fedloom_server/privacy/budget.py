"""How much privacy a run may spend: `--privacy epsilon=8,delta=1e-5`."""

import math
from dataclasses import dataclass
from typing import Self

from fedloom_edge.errors import InputError, unknown

DELTA = 1e-5
"""Delta at which epsilon is told where the user gives none."""
FIGURES = ("epsilon", "sample_epsilon")
"""What has been spent, among a round's metrics: the first unit's, and samples' where both are hidden."""


@dataclass(frozen=True)
class Budget:
    """The most that a run may spend.

    Attributes:
        epsilon: > 0; infinite for no limit.
        delta: in (0, 1).
    """

    epsilon: float = math.inf
    delta: float = DELTA

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `epsilon=8` or `epsilon=8,delta=1e-5`; only `delta=...` sets no limit.

        Raises:
            InputError: a name is unknown, or a value is no number in its range.
        """
        values: dict[str, float] = {}
        for part in text.split(","):
            key, _, value = part.strip().partition("=")
            if key not in ("epsilon", "delta"):
                raise unknown("key of --privacy", key, ["epsilon", "delta"])
            if key in values:
                raise InputError(f"--privacy {text}: {key} is given twice")
            try:
                values[key] = float(value)
            except ValueError:
                raise InputError(f"--privacy {text}: write epsilon=8 or epsilon=8,delta=1e-5") from None
        budget = cls(**values)
        if not (budget.epsilon > 0 and 0 < budget.delta < 1):  # also where one is no number
            raise InputError(f"--privacy {text}: epsilon must be above 0, and delta between 0 and 1")
        return budget
