"""What a federated algorithm is: a server half (`init`, `apply`) and a client half (`fit`, `personal`).

All four are pure: what they need is given, what they come to is returned. The round loop, the messages,
the guard and the checkpoints are the same for every algorithm. The defaults are FedAvg (McMahan et al.,
2017), so that an algorithm is written as what it does otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from fedloom_client.trainer import Assignment, Terms, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a client has to go on in a round.

    Attributes:
        arrays: the global arrays.
        broadcast: what the server half sends beside them.
        memory: what this client's `fit` kept in the round before; empty at first.
        assignment: of the trainer.
        examples: in the client's training part.
        statistics: names of arrays that are measured and not trained.
        fit: trains from some arrays.
        loss: mean loss of some arrays on the client's training part.
    """

    arrays: Arrays
    broadcast: Arrays
    memory: Arrays
    assignment: Assignment
    examples: int
    statistics: frozenset[str]
    fit: Callable[[Arrays, Assignment], Update]
    loss: Callable[[Arrays], float]


@dataclass(frozen=True)
class Reply:
    """An update that the guard has accepted.

    Attributes:
        arrays: as the client sent them.
        weight: in the average: its examples, or 1 (`Algorithm.uniform`).
        figures: its metrics.
    """

    arrays: Arrays
    weight: int
    figures: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What the server half has to go on in a round.

    Arrays here are those that a gradient trains: statistics (batch norm's running mean and variance) are
    averaged beside the algorithm, unless it `sees_statistics`.

    Attributes:
        arrays: the global arrays that clients started from.
        replies: in the order of the clients; if the algorithm `streams`, one that holds their mean, the
            sum of their weights and the means of their figures.
        clients: nodes in the federation.
        training: the clients' settings, with this round's learning rate.
    """

    arrays: Arrays
    replies: Sequence[Reply]
    clients: int
    training: Training


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """FedAvg, and what others change of it. Fields of a subclass are its options.

    Attributes:
        uniform: whether clients weigh alike, whatever their examples.
        streams: whether `apply` needs nothing but the mean of the updates.
        sees_statistics: whether `init` and `apply` are given batch norm's statistics too.
        personal_models: whether clients end up with models of their own.
        low_participation: what to say where few clients take part in a round; empty for nothing.
        optimizers: that clients may use; empty for any.
    """

    uniform: ClassVar[bool] = False
    streams: ClassVar[bool] = True
    sees_statistics: ClassVar[bool] = False
    personal_models: ClassVar[bool] = False
    low_participation: ClassVar[str] = ""
    optimizers: ClassVar[tuple[str, ...]] = ()

    def terms(self, arrays: Arrays, statistics: frozenset[str]) -> Terms:
        """What clients train a model with these arrays with, beside the gradient of their loss."""
        return Terms()

    def check(self, statistics: frozenset[str], draw: Callable[[int], Arrays]) -> None:
        """Refuse a model that it cannot train; `draw` as for `init`.

        Raises:
            InputError: it is one.
        """

    def init(self, arrays: Arrays, draw: Callable[[int], Arrays]) -> Arrays:
        """State of the server half before round 1, from the initial global arrays.

        `draw` gives other initial arrays of the model, the same ones for the same number.
        """
        return {}

    def broadcast(self, state: Arrays) -> Arrays:
        """What of the state every client is sent."""
        return {}

    def apply(self, state: Arrays, collected: Collected) -> tuple[Arrays, Arrays]:
        """The new global arrays, and the new state."""
        return mean(collected.replies), state

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """One round of one client: what is sent, and what it keeps."""
        return work.fit(work.arrays, work.assignment), {}

    def personal(self, work: Work) -> Arrays:
        """The arrays that a client itself uses, and is evaluated with."""
        return work.arrays

    def fault(self, figures: Mapping[str, Any], most_steps: int) -> str:
        """Why a client's figures cannot be believed; empty if they can."""
        return ""

    def options(self) -> dict[str, Any]:
        """Its settings by name."""
        return asdict(self)


SGD = ("sgd", "momentum", "nesterov")
"""Optimisers whose step is a fixed combination of gradients, as the theory of some algorithms asks."""


def mean(replies: Sequence[Reply]) -> Arrays:
    """Weighted mean in float64, in the arrays' dtypes."""
    if len(replies) == 1:
        return dict(replies[0].arrays)
    total = sum(reply.weight for reply in replies)
    return {
        name: np.asarray(
            sum(reply.weight / total * reply.arrays[name].astype(np.float64) for reply in replies),
            dtype=array.dtype,
        )
        for name, array in replies[0].arrays.items()
    }


def steps_fault(figures: Mapping[str, Any], most_steps: int) -> str:
    """A client that claims steps that it cannot have taken could magnify its update."""
    steps = figures.get("steps")
    if isinstance(steps, int | float) and 1 <= steps <= most_steps:
        return ""
    return f"steps: {steps!r} local steps, expected from 1 to {most_steps}"


def progress(training: Training, steps: float, mu: float = 0.0) -> float:
    """How many plain gradient steps a round of `steps` counts for: ||a||_1 of Wang et al. (2020, §4).

    With momentum m a gradient at step k of t is applied (1 - m^(t-k+1)) / (1 - m) times (nesterov's
    first one is stronger by m, which is left out); under a proximal term it decays with (1 - lr mu).
    """
    m = 0.0 if training.optimizer == "sgd" else training.momentum
    if m:
        return float(steps - m * (1 - m**steps) / (1 - m)) / (1 - m)
    shrink = training.lr * mu
    return float(1 - (1 - shrink) ** steps) / shrink if 0 < shrink < 1 else steps


def trained(arrays: Arrays, statistics: frozenset[str]) -> Arrays:
    """Those of the arrays that a gradient trains."""
    return {name: array for name, array in arrays.items() if name not in statistics}


def part(arrays: Arrays, owner: str) -> Arrays:
    """Arrays named `owner/NAME`, by NAME."""
    start = f"{owner}/"
    return {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}


def named(owner: str, arrays: Arrays) -> Arrays:
    """Arrays by `owner/NAME`."""
    return {f"{owner}/{name}": array for name, array in arrays.items()}
