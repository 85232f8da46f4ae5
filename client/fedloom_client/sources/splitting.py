"""From samples to Data: hold out a test set."""

import math

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import Data, Indices, Samples, View
from fedloom_client.seeds import generator
from fedloom_edge.errors import DataError, InputError


def split(samples: Samples, test: float = 0.2, *, seed: int = 0, ordered: bool = False) -> Data:
    """Hold out a share of the samples: at random by whole blocks, or the tail of ordered ones.

    Args:
        samples: all examples; `class_names`, if they have any, go along.
        test: share of the samples (of the blocks, where there are blocks) to hold out, in (0, 1).
        seed: of the random choice; the run's own seed takes no part, so that runs can be compared.
        ordered: the samples stand in time order; the latest are held out.

    Raises:
        InputError: `test` is out of range.
        DataError: there are too few samples for both parts.
    """
    if not 0 < test < 1:
        raise InputError(f"split(test={test}): give a share between 0 and 1, for example 0.2")
    everything = np.arange(len(samples))
    units = everything if samples.blocks is None else samples.blocks
    names, first = np.unique(units, return_index=True)
    names = names[np.argsort(first)]  # in order of appearance, which is time's where it counts
    held_out = max(1, round(test * len(names)))
    if held_out >= len(names):
        raise DataError(f"{len(names)} samples or blocks are too few to hold out {test:.0%}; give more data")
    order = names if ordered else generator(seed, "split").permutation(names)
    is_test = np.isin(units, order[len(names) - held_out :])
    return Data(
        train=View(samples, everything[~is_test]),
        test=View(samples, everything[is_test]),
        ordered=ordered,
        class_names=getattr(samples, "class_names", ()),
    )


def stratified(labels: NDArray[np.int64], test: float = 0.2) -> tuple[Indices, Indices]:
    """Indices of a training and a test part, shuffled, in which each class has its share.

    The same parts as scikit-learn's `train_test_split(stratify=labels, random_state=0)`, whose import
    takes longer than a small run.

    Args:
        labels: class of each sample (N,).
        test: share of the samples that is held out, in (0, 1).
    """
    # The generator of that split is numpy's old one, whose streams do not change any more.
    random = np.random.RandomState(0)
    counts = np.unique(labels, return_counts=True)[1]
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    held_out = math.ceil(test * len(labels))
    trained = _shares(counts, len(labels) - held_out, random)
    tested = _shares(counts - trained, held_out, random)
    parts: tuple[list[Indices], list[Indices]] = [], []
    for own, first, second in zip(members, trained.tolist(), tested.tolist(), strict=True):
        order = own[random.permutation(len(own))]
        parts[0].append(order[:first])
        parts[1].append(order[first : first + second])
    train, rest = (random.permutation(np.concatenate(part)) for part in parts)
    return train, rest


def _shares(counts: NDArray[np.int64], total: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """`total` in proportion to `counts`: rounded down, the rest to the largest remainders, ties by lot."""
    exact = counts / counts.sum() * total
    whole = np.floor(exact)
    remainders = exact - whole
    missing = total - int(whole.sum())
    for value in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        tied = np.flatnonzero(remainders == value)
        chosen = random.choice(tied, min(len(tied), missing), replace=False)
        whole[chosen] += 1
        missing -= len(chosen)
    result: NDArray[np.int64] = whole.astype(np.int64)
    return result
