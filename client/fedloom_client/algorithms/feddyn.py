"""FedDyn: a dynamic regulariser that aligns clients' optima with the global one.

Acar, Zhao, Matas Navarro, Mattina, Whatmough & Saligrama (2021), "Federated learning based on dynamic
regularization", algorithm 1. Clients weigh alike, as there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedloom_client.algorithms.base import Algorithm, Collected, Work, trained
from fedloom_client.trainer import Terms, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FedDyn(Algorithm):
    """A client minimises L(w) - <h_i, w> + alpha/2 ||w - x||^2 and then sets h_i <- h_i - alpha (w - x).

    Attributes:
        alpha: > 0; the paper uses 0.001 to 0.1.
    """

    alpha: float = 0.01

    uniform: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise InputError(f"strategy.alpha={self.alpha:g}: it must be above 0")

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """The regulariser and h_i."""
        return Terms(proximal=True, offset=True)

    def init(self, arrays: Arrays, draw: Callable[[int], Arrays]) -> Arrays:
        """The server's h: zeros."""
        return {name: np.zeros(array.shape, np.float32) for name, array in arrays.items()}

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Train with the regulariser, and move h_i."""
        names = trained(work.arrays, work.statistics)
        own = {
            name: work.memory.get(name, np.zeros(array.shape, np.float32)) for name, array in names.items()
        }
        offset = {name: -gradient for name, gradient in own.items()}
        update = work.fit(work.arrays, replace(work.assignment, offset=offset, proximal_mu=self.alpha))
        moved = {name: update.arrays[name] - array for name, array in names.items()}
        return update, {name: np.asarray(own[name] - self.alpha * moved[name], np.float32) for name in names}

    def apply(self, state: Arrays, collected: Collected) -> tuple[Arrays, Arrays]:
        """h <- h - alpha |P|/N (mean - x); x <- mean - h / alpha."""
        (reply,) = collected.replies
        share = reply.weight / collected.clients
        arrays, state = dict(reply.arrays), dict(state)
        for name, array in reply.arrays.items():
            difference = array.astype(np.float64) - collected.arrays[name]
            state[name] = np.asarray(state[name] - self.alpha * share * difference, np.float32)
            arrays[name] = (array - state[name] / self.alpha).astype(array.dtype)
        return arrays, state
