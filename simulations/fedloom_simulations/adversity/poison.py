"""Poisoned shards: what attackers train on, for the attacks that change data and not updates."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import Indices, Samples
from fedloom_client.data.shards import ShardRecipe, Shards
from fedloom_client.seeds import generator
from fedloom_edge.errors import InputError
from fedloom_simulations.adversity.attacks import Attack

PATCH = 3
"""Pixels along a side of the backdoor's patch."""


@dataclass(frozen=True)
class PoisonedRecipe(ShardRecipe):
    """A recipe whose attackers' training parts are poisoned; everybody measures on clean data."""

    attack: Attack | None = None

    def open(self) -> "Shards":
        """The shards, cut as without the attack."""
        return _open(self)


@lru_cache(maxsize=2)
def _open(recipe: PoisonedRecipe) -> "PoisonedShards":
    return PoisonedShards(recipe)


class PoisonedShards(Shards):
    """Shards of which the attackers' are poisoned."""

    def __init__(self, recipe: PoisonedRecipe) -> None:
        super().__init__(recipe)
        if recipe.attack is None:
            raise ValueError("a poisoned recipe needs an attack")
        self._attack = recipe.attack
        self._attackers = recipe.attack.attackers(len(self))
        labels = self.data.train.labels
        if labels is None or self.task.metric != "accuracy":
            raise InputError(f"--attack {self._attack.name} changes classes, and this task has none")
        self._classes = int(labels.max()) + 1
        self._poisoned: dict[int, tuple[Indices, Indices]] = {}
        self._samples = self._poison()

    @property
    def samples(self) -> Samples:
        """All clean examples, and after them the attackers'."""
        return self._samples

    def parts(self, client: int) -> tuple[Indices, Indices]:
        """Indices of a client's training and validation examples in `samples`."""
        return self._poisoned.get(client) or super().parts(client)

    def _poison(self) -> "_Appended":
        clean = self.data.train
        inputs, targets, origins, place = [], [], [], len(clean)
        for client in sorted(self._attackers):
            train, validation = super().parts(client)
            x, y = self._poison_one(client, *clean.take(train))
            inputs.append(x)
            targets.append(y)
            origins.append(train)
            self._poisoned[client] = np.arange(place, place + len(train)), validation
            place += len(train)
        return _Appended(clean, *(np.concatenate(column) for column in (inputs, targets, origins)))

    def _poison_one(self, client: int, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        chosen = generator(self._attack.seed, "poison", client).random(len(y)) < self._attack.strength
        if self._attack.name == "labelflip":
            return x, np.where(chosen, self._classes - 1 - y, y)
        x = x.copy()
        x[chosen] = stamped(x[chosen], high=self._brightest())
        return x, np.where(chosen, 0, y)

    def _brightest(self) -> float:
        return brightest(self.data.test)


def brightest(samples: Samples) -> float:
    """Largest input value in (at most) the first 256 samples."""
    return float(samples.take(np.arange(min(256, len(samples))))[0].max())


def stamped(x: NDArray[Any], *, high: float) -> NDArray[Any]:
    """Images (B, ..., H, W), or square ones flattened (B, H * W), with a bright patch in the corner.

    Raises:
        InputError: the inputs are no images.
    """
    if x.ndim == 2 and int(x.shape[1] ** 0.5) ** 2 == x.shape[1]:
        side = int(x.shape[1] ** 0.5)
        return stamped(x.reshape(-1, side, side), high=high).reshape(x.shape)
    if x.ndim < 3 or min(x.shape[-2:]) <= PATCH:
        raise InputError("--attack backdoor puts a patch into images, and this task has none")
    result = x.copy()
    result[..., -PATCH:, -PATCH:] = high
    return result


@dataclass(frozen=True, eq=False)
class _Appended:
    """Samples with further ones behind them, whose groups and blocks are those of their `origins` (N,)."""

    base: Samples
    x: NDArray[Any]
    y: NDArray[Any]
    origins: Indices

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each example."""
        labels = self.base.labels
        return None if labels is None else np.concatenate([labels, self.y])

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Natural owner of each example."""
        return self._extended(self.base.groups)

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """Indivisible unit of each example."""
        return self._extended(self.base.blocks)

    def __len__(self) -> int:
        return len(self.base) + len(self.y)

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at `indices`."""
        behind = indices >= len(self.base)
        x, y = (np.array(part) for part in self.base.take(np.where(behind, 0, indices)))
        places = indices[behind] - len(self.base)
        x[behind], y[behind] = self.x[places], self.y[places]
        return x, y

    def _extended(self, column: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return None if column is None else np.concatenate([column, column[self.origins]])
