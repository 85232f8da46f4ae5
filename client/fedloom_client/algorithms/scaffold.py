"""SCAFFOLD: control variates against client drift.

Karimireddy, Kale, Mohri, Reddi, Stich & Suresh (2020), "SCAFFOLD: Stochastic controlled averaging for
federated learning", algorithm 1 with option II. Clients weigh alike, as there. The server computes what
a client adds to c from its update and its number of steps, so nothing but the update goes up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedloom_client.algorithms.base import (
    SGD,
    Algorithm,
    Collected,
    Work,
    mean,
    progress,
    steps_fault,
    trained,
)
from fedloom_client.trainer import Terms, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scaffold(Algorithm):
    """A client's gradients are corrected by c - c_i, the server's control variate less its own.

    With momentum, steps count as often as momentum applies a gradient (`progress`), so that c_i stays
    a mean of gradients.

    Attributes:
        server_lr: step of the server on the mean update, > 0.
    """

    server_lr: float = 1.0

    uniform: ClassVar[bool] = True
    streams: ClassVar[bool] = False
    optimizers: ClassVar[tuple[str, ...]] = SGD
    low_participation: ClassVar[str] = (
        "SCAFFOLD's control variates are old by the time a client is asked again, and it can end up below "
        "FedAvg or diverge (Li et al., 2022, 'Federated learning on non-IID data silos', finding 8)"
    )

    def __post_init__(self) -> None:
        if not self.server_lr > 0:
            raise InputError(f"strategy.server_lr={self.server_lr:g}: it must be above 0")

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """The correction."""
        return Terms(offset=True)

    def init(self, arrays: Arrays, draw: Callable[[int], Arrays]) -> Arrays:
        """The server's control variate c: zeros."""
        return {name: np.zeros(array.shape, np.float32) for name, array in arrays.items()}

    def broadcast(self, state: Arrays) -> Arrays:
        """c."""
        return state

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Steps on g - c_i + c; then c_i <- c_i - c + (x - y) / (K lr)."""
        names = trained(work.arrays, work.statistics)
        server = {name: work.broadcast[name] for name in names}
        own = {name: work.memory.get(name, np.zeros_like(server[name])) for name in names}
        offset = {name: server[name] - own[name] for name in names}
        update = work.fit(work.arrays, replace(work.assignment, offset=offset))
        training = work.assignment.training
        scale = training.lr * progress(training, update.metrics["steps"])
        moved = {name: (work.arrays[name] - update.arrays[name]) / scale for name in names}
        return update, {name: np.asarray(moved[name] - offset[name], np.float32) for name in names}

    def apply(self, state: Arrays, collected: Collected) -> tuple[Arrays, Arrays]:
        """x <- x + server_lr mean(y_i - x); c <- c + |S|/N mean(c_i+ - c_i)."""
        replies, start, training = collected.replies, collected.arrays, collected.training
        share = len(replies) / collected.clients
        arrays = mean(replies)
        control = dict(state)
        for name, c in state.items():
            gradients = [
                (start[name] - reply.arrays[name].astype(np.float64))
                / (training.lr * progress(training, reply.figures["steps"]))
                for reply in replies
            ]
            control[name] = np.asarray(c + share * (sum(gradients) / len(replies) - c), np.float32)
            moved = start[name] + self.server_lr * (arrays[name].astype(np.float64) - start[name])
            arrays[name] = moved.astype(arrays[name].dtype)
        return arrays, control

    def fault(self, figures: Mapping[str, Any], most_steps: int) -> str:
        """Steps must be possible."""
        return steps_fault(figures, most_steps)
