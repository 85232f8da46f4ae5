"""FedNova: updates normalised by the local progress that they stand for.

Wang, Liu, Liang, Joshi & Poor (2020), "Tackling the objective inconsistency problem in heterogeneous
federated optimization", eq. 11 to 13, with tau_eff = sum p_i ||a_i||_1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedloom_client.algorithms.base import SGD, Algorithm, Collected, Work, progress, trained
from fedloom_client.trainer import Terms, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError

NORMALISER = "normaliser"


@dataclass(frozen=True, kw_only=True)
class FedNova(Algorithm):
    """A client sends its difference divided by ||a_i||_1; the server multiplies the mean by tau_eff.

    Where all clients take equally many steps this is FedAvg. Statistics (batch norm's running mean and
    variance) are averaged as they are.

    Attributes:
        proximal_mu: coefficient of a proximal term at the clients, >= 0.
    """

    proximal_mu: float = 0.0

    optimizers: ClassVar[tuple[str, ...]] = SGD
    low_participation: ClassVar[str] = (
        "FedNova's effective number of steps jumps from round to round with who takes part, and its "
        "accuracy with it (Li et al., 2022, 'Federated learning on non-IID data silos', finding 8)"
    )

    def __post_init__(self) -> None:
        if not self.proximal_mu >= 0:
            raise InputError(f"strategy.proximal_mu={self.proximal_mu:g}: it must be at least 0")

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """FedProx's."""
        return Terms(proximal=self.proximal_mu > 0)

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """x + (y - x) / ||a_i||_1."""
        mu = self.proximal_mu
        update = work.fit(work.arrays, replace(work.assignment, proximal_mu=mu))
        normaliser = progress(work.assignment.training, update.metrics["steps"], mu)
        arrays = dict(update.arrays)
        for name in trained(arrays, work.statistics):
            start = work.arrays[name]
            moved = start + (arrays[name].astype(np.float64) - start) / normaliser
            arrays[name] = moved.astype(start.dtype)
        metrics = {**update.metrics, NORMALISER: normaliser}
        return replace(update, arrays=arrays, metrics=metrics), {}

    def apply(self, state: Arrays, collected: Collected) -> tuple[Arrays, Arrays]:
        """x + tau_eff * mean of the normalised differences."""
        (reply,) = collected.replies
        effective = float(reply.figures[NORMALISER])
        arrays = dict(reply.arrays)
        for name, array in arrays.items():
            start = collected.arrays[name]
            arrays[name] = (start + effective * (array.astype(np.float64) - start)).astype(array.dtype)
        return arrays, state

    def fault(self, figures: Mapping[str, Any], most_steps: int) -> str:
        """The normaliser magnifies everybody's mean: it must be possible."""
        value = figures.get(NORMALISER)
        # Momentum below 1 - 1e-6 makes at most a million gradients' worth of one; 1000 is beyond any use.
        if isinstance(value, int | float) and 0 < value <= 1000 * most_steps:
            return ""
        return f"steps: a normaliser of {value!r}, expected above 0 and at most {1000 * most_steps}"
