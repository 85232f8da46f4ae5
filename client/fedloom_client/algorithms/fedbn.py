"""FedBN: batch normalisation stays at the client.

Li, Jiang, Zhang, Kamp & Dou (2021), "FedBN: Federated learning on non-IID features via local batch
normalization", algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from fedloom_client.algorithms.base import Algorithm, Work
from fedloom_client.trainer import Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FedBN(Algorithm):
    """Scales, shifts and statistics of batch norm are each client's own and never leave it.

    The global model keeps those that it began with: measure it at the clients, not on the test set.
    """

    personal_models: ClassVar[bool] = True

    def check(self, statistics: frozenset[str], draw: Callable[[int], Arrays]) -> None:
        """Refuse a model without batch norm."""
        if not statistics:
            raise InputError(
                "strategy fedbn needs a model with batch normalisation, and this task's has none; use another"
            )

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Train with the own normalisation; send everything else."""
        update = work.fit(self.personal(work), work.assignment)
        own = _local(work)
        shared = {name: work.arrays[name] if name in own else a for name, a in update.arrays.items()}
        return replace(update, arrays=shared), {name: update.arrays[name] for name in own}

    def personal(self, work: Work) -> Arrays:
        """The global arrays with the own normalisation."""
        return {**work.arrays, **work.memory}


def _local(work: Work) -> set[str]:
    """Names of every array of a layer that has statistics."""
    layers = {name.rpartition(".")[0] for name in work.statistics}
    return {name for name in work.arrays if name.rpartition(".")[0] in layers}
