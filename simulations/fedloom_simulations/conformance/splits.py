"""The divisions of data that other benchmarks publish figures on, as the owner of each sample.

Both benchmarks draw from numpy's old generator with a fixed seed, whose streams do not change any more:
the division is theirs, sample for sample, if the samples come in the same order.
"""

import numpy as np
from numpy.typing import NDArray


def two_classes_each(labels: NDArray[np.int64], clients: int, seed: int) -> NDArray[np.int64]:
    """PFLlib's unbalanced pathological division: neighbours in the order of classes share two of them.

    Each class goes to the first clients that still lack classes, as many as it needs; all but the last
    get a uniform number between a tenth and the whole of an equal share, the last gets the rest.

    Args:
        labels: class of each sample (N,).
        clients: how many; a multiple of the number of classes.
        seed: of the sizes.

    Returns:
        The client of each sample (N,).
    """
    random = np.random.RandomState(seed)
    classes = np.unique(labels)
    holders = 2 * clients // len(classes)
    lacking = np.full(clients, 2)
    owners = np.empty(len(labels), np.int64)
    for label in classes:
        members = np.flatnonzero(labels == label)
        chosen = np.flatnonzero(lacking)[:holders]
        share = len(members) / holders
        sizes = random.randint(int(share / 10), int(share), holders - 1)
        owners[members] = np.repeat(chosen, [*sizes, len(members) - sizes.sum()])
        lacking[chosen] -= 1
    return owners


def closing_dirichlet(
    labels: NDArray[np.int64], clients: int, alpha: float, seed: int, least: int
) -> NDArray[np.int64]:
    """Each class by Dirichlet(alpha), among clients that hold less than an equal share so far.

    So do both PFLlib and NIID-Bench (Li et al., 2022, section IV); drawn again until every client has
    `least` samples.

    Args:
        labels: class of each sample (N,).
        clients: how many.
        alpha: concentration, > 0.
        seed: of all draws.
        least: samples that a client must have.

    Returns:
        The client of each sample (N,).
    """
    random = np.random.RandomState(seed)
    while True:
        owners = np.empty(len(labels), np.int64)
        held = np.zeros(clients, np.int64)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            random.shuffle(members)
            open_ = held < len(labels) / clients
            shares = random.dirichlet(np.full(clients, alpha)) * open_
            ends = (np.cumsum(shares / shares.sum()) * len(members)).astype(np.int64)
            ends[-1] = len(members)
            owners[members] = np.searchsorted(ends, np.arange(len(members)), side="right")
            held = np.bincount(owners[labels <= label], minlength=clients)
        if held.min() >= least:
            return owners


def partly_sorted(labels: NDArray[np.int64], clients: int, share: float, seed: int) -> NDArray[np.int64]:
    """A share of each client's samples at random, the rest in the order of classes.

    Hsu et al. (2019); "s % similarity" of Karimireddy et al. (2020, section 7).

    Args:
        labels: class of each sample (N,).
        clients: how many, of equal size.
        share: that is dealt at random, in [0, 1].
        seed: of the deal.

    Returns:
        The client of each sample (N,).
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    dealt = round(share * len(labels))
    owners = np.empty(len(labels), np.int64)
    owners[order[:dealt]] = np.arange(dealt) % clients
    rest = order[dealt:]
    rest = rest[np.argsort(labels[rest], kind="stable")]
    owners[rest] = np.arange(len(rest)) * clients // max(len(rest), 1)
    return owners


def unequal_slices(target: NDArray[np.float64], clients: int) -> NDArray[np.int64]:
    """Samples in the order of their target, cut so that each client has twice as many as the one before.

    Args:
        target: of each sample (N,).
        clients: how many.

    Returns:
        The client of each sample (N,).
    """
    ends = np.cumsum(2.0 ** np.arange(clients)) / (2.0**clients - 1) * len(target)
    owners = np.empty(len(target), np.int64)
    owners[np.argsort(target, kind="stable")] = np.searchsorted(ends, np.arange(len(target)), side="right")
    return owners
