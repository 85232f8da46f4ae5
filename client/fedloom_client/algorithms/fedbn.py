"""FedBN: batch normalisation stays at the client.

Li, Jiang, Zhang, Kamp & Dou (2021), "FedBN: Federated learning on non-IID features via local batch
normalization", algorithm 1.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedloom_client.algorithms.base import Algorithm, Work
from fedloom_client.trainer import Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class FedBN(Algorithm):
    """Scales, shifts and statistics of batch norm are each client's own and never leave it.

    The global model keeps those that it began with: measure it at the clients, not on the test set.
    """

    personal_models: ClassVar[bool] = True

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
    if not layers:
        raise TrainingError("FedBN needs a model with batch normalisation; use another strategy")
    return {name for name in work.arrays if name.rpartition(".")[0] in layers}
