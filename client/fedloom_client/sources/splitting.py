"""From samples to Data: hold out a test set."""

import numpy as np

from fedloom_client.samples import Data, Samples, View
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
