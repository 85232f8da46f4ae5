"""FedRep: a shared representation and a head of each client's own.

Collins, Hassani, Mokhtari & Shakkottai (2021), "Exploiting shared representations for personalized
federated learning", algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from fedloom_client.algorithms.base import Algorithm, Work
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Terms, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FedRep(Algorithm):
    """A client trains its head on the representation, then the representation under its head.

    The head never leaves the client; the global model keeps the one that it began with.

    Attributes:
        head: the layer that is the head, by its name in the model; empty for the last one.
        head_epochs: passes over the shard for the head, at least 1.
    """

    head: str = ""
    head_epochs: int = 1

    personal_models: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.head_epochs < 1:
            raise InputError(f"strategy.head_epochs={self.head_epochs}: it must be at least 1")

    def check(self, statistics: frozenset[str], draw: Callable[[int], Arrays]) -> None:
        """Refuse a model of which the head is nothing or all."""
        self._head(draw(0), statistics)

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """The head without the body, and the body without the head."""
        head = frozenset(self._head(arrays, statistics))
        return Terms(frozen=(frozenset(arrays.keys() - head - statistics), head))

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Head first, body then; send the body."""
        head = self._head(work.arrays, work.statistics)
        job = work.assignment
        first = replace(
            job,
            training=replace(job.training, epochs=self.head_epochs, steps=0),
            seed=derive_seed(job.seed, "head"),
            frozen=frozenset(work.arrays.keys() - head),
            progress=None,
        )
        start = self.personal(work)
        mine = {name: array for name, array in work.fit(start, first).arrays.items() if name in head}
        update = work.fit({**start, **mine}, replace(job, frozen=frozenset(head)))
        shared = {name: work.arrays[name] if name in head else a for name, a in update.arrays.items()}
        return replace(update, arrays=shared), mine

    def personal(self, work: Work) -> Arrays:
        """The global representation under the own head."""
        return {**work.arrays, **work.memory}

    def _head(self, arrays: Arrays, statistics: frozenset[str]) -> set[str]:
        names = [name for name in arrays if name not in statistics]
        layer = self.head or names[-1].rpartition(".")[0]
        head = {name for name in names if name == layer or name.startswith(f"{layer}.")}
        if not head or len(head) == len(names):
            layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
            raise InputError(
                f"strategy fedrep: {len(head)} of {len(names)} arrays are of the head {layer!r}; "
                f"--set strategy.head=LAYER, one of {', '.join(layers)}"
            )
        return head
