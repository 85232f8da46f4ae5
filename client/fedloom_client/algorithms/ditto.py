"""Ditto: a personal model beside the global one, held near it.

Li, Hu, Beirami & Smith (2021), "Ditto: Fair and robust federated learning through personalization",
algorithm 1.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedloom_client.algorithms.base import Algorithm, Work
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Terms, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Ditto(Algorithm):
    """The global model is FedAvg's, bit for bit; a client's own minimises L(v) + lam/2 ||v - x||^2.

    Attributes:
        lam: how near the personal model stays, >= 0; the paper tunes it in 0.05 to 2.
    """

    lam: float = 0.1

    personal_models: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise InputError(f"strategy.lam={self.lam:g}: it must be at least 0")

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """What holds the own model near the global one."""
        return Terms(proximal=self.lam > 0)

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Train the global model for the server, and the own one for itself."""
        update = work.fit(work.arrays, work.assignment)
        own = replace(
            work.assignment,
            seed=derive_seed(work.assignment.seed, "personal"),
            proximal_mu=self.lam,
            anchor=work.arrays,
            progress=None,
        )
        return update, work.fit(self.personal(work), own).arrays

    def personal(self, work: Work) -> Arrays:
        """The own model, which starts as the global one."""
        return work.memory or work.arrays
