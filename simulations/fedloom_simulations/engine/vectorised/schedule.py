"""Which examples each client takes at each step, and which clients are stacked together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, zip_longest

import numpy as np

from fedloom_client.data.batches import cut
from fedloom_client.data.samples import Indices
from fedloom_client.seeds import derive_seed, streams
from fedloom_client.trainer import Assignment
from fedloom_client.training import Training
from fedloom_simulations.engine.vectorised.size import TINY

WASTE = 0.2
"""Largest share of a chunk's work that may be padding."""
_FEWEST = 3  # clients of a chunk, where a cohort is small
_CHUNKS = 8  # of a cohort, so that several processes end together


@dataclass(frozen=True)
class Course:
    """A client's way through a round: its batches in order, and the epochs begun."""

    batches: list[Indices]
    epochs: int


def courses(examples: Sequence[int], jobs: Sequence[Assignment]) -> list[Course]:
    """For each client the batches that `torch_trainer.loop.train` takes, in its order, as indices (b,)."""
    orders = streams([derive_seed(job.seed, "order") for job in jobs])
    return [
        _course(count, job.training, order) for count, job, order in zip(examples, jobs, orders, strict=True)
    ]


def _course(examples: int, training: Training, order: np.random.Generator) -> Course:
    batches: list[Indices] = []
    for epoch in range(1, training.epochs + 1):
        batches += cut(order.permutation(examples), training.batch_size)
        if training.steps and len(batches) >= training.steps:
            return Course(batches[: training.steps], epoch)
    return Course(batches, training.epochs)


def steps(examples: int, training: Training) -> int:
    """How many steps a client with so many examples takes."""
    most = len(_sizes(examples, training)) * training.epochs
    return min(most, training.steps or most)


def chunks(examples: Sequence[int], training: Training, largest: int) -> Sequence[Sequence[int]]:
    """Clients, by their place in `examples`, that are stacked together.

    It depends on the cohort alone, not on the machine or the number of workers, and so do results.
    Clients of a chunk are alike in steps and size, in descending order. Clients whose every batch is
    one example are apart: their batch norm works otherwise (`to_training_mode`).
    """
    return _chunks(tuple(examples), training, largest)


@lru_cache(maxsize=4)  # where everybody trains in every round, every round is cut alike
def _chunks(examples: tuple[int, ...], training: Training, largest: int) -> Sequence[Sequence[int]]:
    alone = [min(n, training.batch_size) == 1 for n in examples]
    order = sorted(
        range(len(examples)), key=lambda i: (alone[i], -steps(examples[i], training), -examples[i], i)
    )
    if largest < TINY:  # several processes share the work of models that are not tiny
        largest = min(largest, max(_FEWEST, math.ceil(len(order) / _CHUNKS)))
    found: list[list[int]] = []
    padding = _Padding()
    for place in order:
        sizes = _sizes(examples[place], training)
        fits = found and len(found[-1]) < largest and alone[found[-1][0]] == alone[place]
        if fits and padding.with_(sizes) <= WASTE:
            found[-1].append(place)
        else:
            found.append([place])
            padding = _Padding()
        padding.add(sizes)
    return found


class _Padding:
    """What part of a chunk's work is padding."""

    def __init__(self) -> None:
        self._done = 0
        self._steps: list[tuple[int, int]] = []  # the largest batch and the clients at each step

    def add(self, sizes: tuple[int, ...]) -> None:
        """Add a client with such batches."""
        self._done += sum(sizes)
        self._steps = self._merged(sizes)

    def with_(self, sizes: tuple[int, ...]) -> float:
        """The share of padding if such a client were added."""
        return 1 - (self._done + sum(sizes)) / sum(size * count for size, count in self._merged(sizes))

    def _merged(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        pairs = zip_longest(self._steps, sizes, fillvalue=None)
        return [
            (max(old[0] if old else 0, size or 0), (old[1] if old else 0) + (size is not None))
            for old, size in pairs
        ]


@lru_cache(maxsize=4096)
def _sizes(examples: int, training: Training) -> tuple[int, ...]:
    """Batch sizes of one epoch; the others are alike."""
    size = training.batch_size
    ends = [*range(0, examples, size), examples]
    found = [b - a for a, b in pairwise(ends)]
    if size > 1 and len(found) > 1 and found[-1] == 1:
        found[-2:] = [size + 1]
    return tuple(found[: training.steps] if training.steps else found)
