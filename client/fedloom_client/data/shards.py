"""Shards from a recipe: the few values from which any process makes the same shards."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.partition import Partition, VirtualShards, natural_groups
from fedloom_client.data.samples import Data, Indices, Samples, Shard, View
from fedloom_client.loading import load_data, load_task
from fedloom_client.seeds import generator
from fedloom_client.task import Task
from fedloom_edge.errors import DataError, InputError

_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ShardRecipe:
    """What decides every shard; small, hashable, and sent to an engine's processes instead of data.

    Attributes:
        task: built-in name or `path/to/file.py[:name]`.
        data_dir: folder of `--data`, or None.
        partition: as `--partition` takes it.
        clients: how many shards; 0 for one per natural group.
        seed: of the partition and of the validation parts.
        validation: share of each shard that is measured on and not trained on, in [0, 1).
    """

    task: str
    data_dir: str | None
    partition: str
    clients: int
    seed: int
    validation: float = 0.1

    def open(self) -> "Shards":
        """The shards; data is read once in a process, however often this is called."""
        return _open(self)


@lru_cache(maxsize=2)
def _open(recipe: ShardRecipe) -> "Shards":
    return Shards(recipe)


class Shards:
    """Every client's shard, made when it is asked for and without a copy.

    Args:
        recipe: what decides them.
        task: the recipe's, if it is loaded already.
    """

    def __init__(self, recipe: ShardRecipe, task: Task | None = None) -> None:
        partition = Partition.parse(recipe.partition)
        self.recipe = recipe
        self.task: Task = task or load_task(recipe.task)
        self.data: Data = load_data(self.task, Path(recipe.data_dir) if recipe.data_dir else None)
        clients = recipe.clients or natural_groups(self.data.train)
        if recipe.clients == 0 and clients == 0:
            raise InputError("--clients 0 means one per natural group, and this data has none; give a number")
        self.indices = partition.cut(self.data.train, clients, recipe.seed)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, client: int) -> Shard:
        train, validation = self.parts(client)
        return Shard(View(self.samples, train), View(self.samples, validation))

    @property
    def samples(self) -> Samples:
        """All examples that clients have; `parts` are indices into them."""
        return self.data.train

    def parts(self, client: int) -> tuple[Indices, Indices]:
        """Indices of a client's training and validation examples in `samples`."""
        indices = self.indices[client]
        held_out = self._held_out(View(self.data.train, indices), client)
        return indices[~held_out], indices[held_out]

    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Training and validation samples of each client (clients,); None where they must be counted."""
        if self.data.train.blocks is not None:
            return None
        if isinstance(self.indices, VirtualShards):
            sizes = np.full(len(self.indices), self.indices.size)
        else:
            sizes = np.array([len(indices) for indices in self.indices], np.int64)
        validation = np.minimum(np.rint(self.recipe.validation * sizes).astype(np.int64), sizes - 1)
        return sizes - validation, validation

    def labels_of(self, client: int) -> list[int] | None:
        """Examples of each class at a client; None where nothing is classified."""
        if self._classes == 0:
            return None
        counts: list[int] = np.bincount(self._labels[self.indices[client]], minlength=self._classes).tolist()
        return counts

    def label_counts(self) -> NDArray[np.int64] | None:
        """Examples of each class at each client (clients, classes); None where nothing is classified.

        Raises:
            DataError: a label is negative, or far too large to number a class.
        """
        if self._classes == 0:
            return None
        return np.array([self.labels_of(client) for client in range(len(self))])

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        labels = self.data.train.labels
        return np.empty(0, np.int64) if labels is None else labels

    @cached_property
    def _classes(self) -> int:
        """How many classes there are; 0 where nothing is classified."""
        labels = self._labels
        # Whole-number targets of a regression (a price, a year) look like labels and are none.
        if not len(labels) or self.task.metric != "accuracy":
            return 0
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= _MOST_CLASSES:
            raise DataError(
                f"task {self.task.name}: labels run from {lowest} to {highest}; number the classes from 0"
            )
        return highest + 1

    def _held_out(self, shard: Samples, client: int) -> NDArray[np.bool_]:
        """Which of a shard's samples are its validation part; at least one is left to train on."""
        count = min(round(self.recipe.validation * len(shard)), len(shard) - 1)
        if self.data.ordered:
            order = np.arange(len(shard))[::-1]
        else:
            order = generator(self.recipe.seed, "validation", client).permutation(len(shard))
        if shard.blocks is not None:
            return np.isin(shard.blocks, _whole_blocks(shard.blocks[order], count))
        held_out = np.zeros(len(shard), np.bool_)
        held_out[order[:count]] = True
        return held_out


def _whole_blocks(blocks: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Blocks in order of appearance that together hold nearest to `count` samples.

    At least one if `count` is not 0 and there are two; one at least is left; none is most of the shard.
    """
    names, first, sizes = np.unique(blocks, return_index=True, return_counts=True)
    order = np.argsort(first)
    order = order[2 * sizes[order] <= len(blocks)][: len(names) - 1]
    totals = np.concatenate([[0], np.cumsum(sizes[order])])
    best = int(np.argmin(np.abs(totals - count)))
    return names[order[: max(best, min(1, count))]]


__all__ = ["Indices", "ShardRecipe", "Shards"]
