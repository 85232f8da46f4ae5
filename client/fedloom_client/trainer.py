"""The Trainer face: fits Arrays on a Shard. TorchTrainer and OnnxTrainer both have it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fedloom_client.data.samples import Samples, Shard
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one client is asked to do in one round.

    Attributes:
        training: settings, `lr` being this round's.
        seed: of this client in this round; decides the batch order and dropout.
        proximal_mu: coefficient of FedProx's term mu/2 * ||w - w_global||^2 (Li et al., 2020,
            "Federated Optimization in Heterogeneous Networks", eq. 2); 0 for none.
        anchor: what the proximal term pulls to; empty for the arrays that training starts from.
        offset: added to the gradient in every step, by name; empty for none.
        frozen: names of arrays that are not trained.
        progress: called with (epoch, mean training loss) after each epoch; None for silence.
        enough: asked after each step; when it is true training ends with what it has, and the update
            counts the examples that were seen. None for never.
        secret: whether noise for privacy is the operating system's and not `seed`'s. Then equal arguments
            give equal results no more.
    """

    training: Training
    seed: int
    proximal_mu: float = 0.0
    anchor: Arrays = field(default_factory=Arrays)
    offset: Arrays = field(default_factory=Arrays)
    frozen: frozenset[str] = frozenset()
    progress: Callable[[int, float], None] | None = None
    enough: Callable[[], bool] | None = None
    secret: bool = False


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What of assignments must be known when a step graph is built.

    Attributes:
        proximal: whether one has a proximal term.
        offset: whether one has an offset.
        frozen: the sets of arrays that one does not train, each.
    """

    proximal: bool = False
    offset: bool = False
    frozen: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Update:
    """What a trainer gives back.

    Attributes:
        arrays: the trained arrays, names and order as they came in.
        examples: training examples in the shard (of partial work: those that were seen), the weight in
            an average.
        metrics: finite figures with the same names for every client and round:
            train-loss, gradient-norm (mean over steps, before clipping), steps, epochs, ...
        warnings: sentences for the operator, for example a layer whose gradients vanish.
    """

    arrays: Arrays
    examples: int
    metrics: Mapping[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Loss and metrics of arrays on samples.

    Attributes:
        loss: mean over the examples.
        metrics: the task's standard metric first, then its own.
        examples: how many were measured.
    """

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    examples: int = 0


class Trainer(Protocol):
    """Local training for one task; it keeps no state between calls that changes a result."""

    @property
    def statistics(self) -> frozenset[str]:
        """Names of the arrays that are measured and not trained (batch norm's running mean, variance).

        A server optimiser must average them: a step of Adam can make a variance negative.
        """
        ...

    def initial_arrays(self, seed: int) -> Arrays:
        """Arrays of a fresh model whose initialisation is drawn from `seed`."""
        ...

    def fit(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """Train from `arrays` on `shard.train`. Equal arguments give equal results, bit for bit."""
        ...

    def evaluate(self, arrays: Arrays, samples: Samples) -> Evaluation:
        """Loss and metrics of `arrays` on `samples`, without changing anything."""
        ...
