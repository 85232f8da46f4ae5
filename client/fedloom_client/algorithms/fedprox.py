"""FedProx with inexact local work.

Li, Sahu, Zaheer, Sanjabi, Talwalkar & Smith (2020), "Federated optimization in heterogeneous networks",
algorithm 2 and §5.2: a straggler sends what it has done of the round instead of being dropped.
"""

from dataclasses import dataclass, replace

from fedloom_client.algorithms.base import Algorithm, Work
from fedloom_client.seeds import generator
from fedloom_client.trainer import Terms, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError


@dataclass(frozen=True, kw_only=True)
class InexactProx(Algorithm):
    """The proximal term, and stragglers that do a part of the round, drawn uniformly for each round.

    Attributes:
        proximal_mu: coefficient of the proximal term, >= 0.
        stragglers: probability that a client is one in a round, in [0, 1].
    """

    proximal_mu: float = 0.01
    stragglers: float = 0.5

    def __post_init__(self) -> None:
        if not (self.proximal_mu >= 0 and 0 <= self.stragglers <= 1):
            raise InputError("strategy.proximal_mu must be at least 0, strategy.stragglers from 0 to 1")

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """FedProx's."""
        return Terms(proximal=self.proximal_mu > 0)

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """As many steps as the client gets to."""
        job = replace(work.assignment, proximal_mu=self.proximal_mu)
        draw = generator(job.seed, "straggler")
        if draw.random() < self.stragglers:
            whole = job.training.most_steps(work.examples)
            steps = max(int(draw.random() * whole), 1)
            job = replace(job, training=replace(job.training, steps=steps))
        return work.fit(work.arrays, job), {}
