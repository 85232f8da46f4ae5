"""Poisoned shards: what attackers train on, for the attacks that change data and not updates."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.samples import ArraySamples, Samples, Shard
from fedloom_client.seeds import generator
from fedloom_client.shards import ShardRecipe, Shards
from fedloom_edge.errors import InputError
from fedloom_simulations.attacks import Attack

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
    """Shards of which the attackers' are poisoned when they are asked for."""

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

    def __getitem__(self, client: int) -> Shard:
        shard = super().__getitem__(client)
        if client not in self._attackers:
            return shard
        x, y = shard.train.take(np.arange(len(shard.train)))
        draw = generator(self._attack.seed, "poison", client)
        chosen = draw.random(len(y)) < self._attack.strength
        if self._attack.name == "labelflip":
            y = np.where(chosen, self._classes - 1 - y, y)
        else:
            x = x.copy()
            x[chosen] = stamped(x[chosen], high=self._brightest())
            y = np.where(chosen, 0, y)
        return Shard(_samples(x, y, shard.train), shard.validation)

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


def _samples(x: NDArray[Any], y: NDArray[Any], like: Samples) -> Samples:
    return ArraySamples(x, y, like.groups, like.blocks)
