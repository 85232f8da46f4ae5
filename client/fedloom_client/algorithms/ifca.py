"""IFCA: several global models, each client with the one that fits it best.

Ghosh, Chung, Yin & Ramchandran (2020), "An efficient framework for clustered federated learning",
algorithm 1 (model averaging).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedloom_client.algorithms.base import Algorithm, Collected, Reply, Work, mean, named, part
from fedloom_client.trainer import Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError

CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class IFCA(Algorithm):
    """Every client is sent all models, trains the one with the least loss on its data, and says which.

    What it sends is its difference to that model, put on the global arrays, so that the guard compares
    like with like. The global arrays are the model of the largest cluster.

    Attributes:
        clusters: models, at least 2.
    """

    clusters: int = 2

    streams: ClassVar[bool] = False
    sees_statistics: ClassVar[bool] = True
    personal_models: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 2 <= self.clusters <= 100:
            raise InputError(f"strategy.clusters={self.clusters}: it must be from 2 to 100")

    def check(self, statistics: frozenset[str], draw: Callable[[int], Arrays]) -> None:
        """Refuse models that are all alike: every client takes the first, and then it alone is trained."""
        first, second = draw(0), draw(1)
        if all(np.array_equal(array, second[name]) for name, array in first.items()):
            raise InputError(
                "strategy ifca begins with models that differ, and this task's model always begins with the "
                "same arrays; draw some of its layers at random, or use another strategy"
            )

    def init(self, arrays: Arrays, draw: Callable[[int], Arrays]) -> Arrays:
        """The initial model, and others: what is pretrained is the same in all of them."""
        models = dict(named("0", arrays))
        for index in range(1, self.clusters):
            models |= named(str(index), draw(index))
        return models

    def broadcast(self, state: Arrays) -> Arrays:
        """All models."""
        return state

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Choose a model, train it, send its difference and which it was."""
        chosen = self._best(work)
        model = part(work.broadcast, str(chosen))
        update = work.fit(model, work.assignment)
        moved = {
            name: (work.arrays[name] + (array.astype(np.float64) - model[name])).astype(array.dtype)
            for name, array in update.arrays.items()
        }
        metrics = {**update.metrics, CLUSTER: float(chosen)}
        return replace(update, arrays=moved, metrics=metrics), {CLUSTER: np.array(chosen)}

    def apply(self, state: Arrays, collected: Collected) -> tuple[Arrays, Arrays]:
        """Average each cluster's differences onto its model."""
        groups: dict[int, list[Reply]] = {}
        for reply in collected.replies:
            groups.setdefault(int(reply.figures[CLUSTER]), []).append(reply)
        state = dict(state)
        for index, replies in groups.items():
            difference, model = mean(replies), part(state, str(index))
            moved = {
                name: array + (difference[name].astype(np.float64) - collected.arrays[name])
                for name, array in model.items()
            }
            state |= named(str(index), {name: a.astype(model[name].dtype) for name, a in moved.items()})
        largest = max(groups, key=lambda index: (sum(r.weight for r in groups[index]), -index))
        return part(state, str(largest)), state

    def personal(self, work: Work) -> Arrays:
        """The model that fits the client's training part best."""
        return part(work.broadcast, str(self._best(work)))

    def fault(self, figures: Mapping[str, Any], most_steps: int) -> str:
        """The cluster must exist."""
        value = figures.get(CLUSTER)
        if isinstance(value, int | float) and value in range(self.clusters):
            return ""
        return f"cluster: {value!r}, expected from 0 to {self.clusters - 1}"

    def _best(self, work: Work) -> int:
        losses = [work.loss(part(work.broadcast, str(index))) for index in range(self.clusters)]
        return int(np.argmin(np.nan_to_num(losses, nan=np.inf)))
