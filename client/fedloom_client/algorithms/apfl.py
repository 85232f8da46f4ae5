"""APFL: a personal model mixed with the global one, in a proportion that is learned.

Deng, Kamani & Mahdavi (2020), "Adaptive personalized federated learning", algorithm 1 and eq. 10.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedloom_client.algorithms.base import SGD, Algorithm, Work, named, part, progress, trained
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError

_LEAST = 0.05  # of alpha: below it the personal part would no longer learn anything
_MOST = 0.1  # that alpha moves in a round: further, and a steep loss throws it from end to end


@dataclass(frozen=True, kw_only=True)
class APFL(Algorithm):
    """A client uses alpha v + (1 - alpha) w, of which v is its own.

    The paper takes a step on w and one on v in turn. Here a round's steps on v are taken with w held at
    the global arrays, which is what the mixture is used with: the gradient by v of the mixture is alpha
    times the mixture's, so they are steps of the mixture at the learning rate alpha^2 lr. alpha moves
    once a round, by the mean gradient of those steps, and by 0.1 at most.

    Attributes:
        alpha: share of the own model at first, in (0, 1].
        adaptive: whether alpha is learned.
    """

    alpha: float = 0.5
    adaptive: bool = True

    personal_models: ClassVar[bool] = True
    optimizers: ClassVar[tuple[str, ...]] = SGD

    def __post_init__(self) -> None:
        if not _LEAST <= self.alpha <= 1:
            raise InputError(f"strategy.alpha={self.alpha:g}: it must be from {_LEAST} to 1")

    def fit(self, work: Work) -> tuple[Update, Arrays]:
        """Train w and send it; train v, and move alpha."""
        update = work.fit(work.arrays, work.assignment)
        alpha, own = self._own(work)
        start = _mixed(alpha, own, work.arrays)
        training = work.assignment.training
        job = replace(
            work.assignment,
            training=replace(training, lr=alpha**2 * training.lr),
            seed=derive_seed(work.assignment.seed, "personal"),
            progress=None,
        )
        mixture = work.fit(start, job)
        moved = {name: array.astype(np.float64) - start[name] for name, array in mixture.arrays.items()}
        after = {name: (own[name] + moved[name] / alpha).astype(own[name].dtype) for name in own}
        for name in work.statistics:  # measured under the mixture, and as it is
            after[name] = mixture.arrays[name]
        if self.adaptive:
            scale = alpha**2 * training.lr * progress(training, mixture.metrics["steps"])
            slope = -sum(
                float(np.sum((own[name].astype(np.float64) - work.arrays[name]) * moved[name])) / scale
                for name in trained(own, work.statistics)
            )
            alpha = min(max(alpha - float(np.clip(training.lr * slope, -_MOST, _MOST)), _LEAST), 1.0)
        return update, {"alpha": np.array(alpha), **named("own", after)}

    def personal(self, work: Work) -> Arrays:
        """The mixture."""
        alpha, own = self._own(work)
        return _mixed(alpha, own, work.arrays)

    def _own(self, work: Work) -> tuple[float, Arrays]:
        if not work.memory:
            return self.alpha, work.arrays
        return float(work.memory["alpha"]), part(work.memory, "own")


def _mixed(alpha: float, own: Arrays, other: Arrays) -> Arrays:
    return {
        name: (alpha * array.astype(np.float64) + (1 - alpha) * other[name]).astype(array.dtype)
        for name, array in own.items()
    }
