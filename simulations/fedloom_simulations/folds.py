"""Folds: a quarter of the clients trains nothing, and is the test set of the run."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fedloom_client.data.partition import VirtualShards
from fedloom_client.data.samples import View
from fedloom_client.data.shards import ShardRecipe, Shards
from fedloom_client.seeds import generator
from fedloom_edge.errors import InputError

FOLDS = 4
"""Each client is held out once; with fewer clients there are as many folds as clients."""


def fold_count(clients: int) -> int:
    """How many folds there are of so many clients."""
    return min(FOLDS, clients)


@dataclass(frozen=True)
class FoldRecipe(ShardRecipe):
    """A recipe whose clients of one fold are held out.

    Attributes:
        fold: which, from 1.
    """

    fold: int = 1

    def open(self) -> "Shards":
        """The shards of the other clients, cut as if all took part, over other test data."""
        return _open(self)


@lru_cache(maxsize=2)
def _open(recipe: FoldRecipe) -> "FoldShards":
    return FoldShards(recipe)


class FoldShards(Shards):
    """The shards of the clients that are not held out, numbered anew.

    `data.train` is what these have, and `data.test` what the others have.

    Raises:
        InputError: there is no such fold, or clients share their samples.
    """

    def __init__(self, recipe: FoldRecipe) -> None:
        super().__init__(recipe)
        clients = len(self.indices)
        if isinstance(self.indices, VirtualShards):
            raise InputError(
                f"--partition {recipe.partition}: its clients share samples; hold none of them out"
            )
        if clients < 2:
            raise InputError(f"--clients {clients}: to hold out some and train the others give at least 2")
        if not 1 <= recipe.fold <= fold_count(clients):
            raise InputError(f"--fold {recipe.fold}: the folds are 1 to {fold_count(clients)}")
        order = generator(recipe.seed, "folds").permutation(clients)
        held_out = order[recipe.fold - 1 :: fold_count(clients)]
        others = [self.indices[client] for client in range(clients) if client not in held_out]
        train, test = (
            np.sort(np.concatenate(part)) for part in (others, [self.indices[c] for c in held_out])
        )
        whole = self.data.train
        self.data = replace(self.data, train=View(whole, train), test=View(whole, test))
        self.indices = [np.searchsorted(train, indices) for indices in others]
