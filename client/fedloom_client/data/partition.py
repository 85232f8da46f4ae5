"""How samples are cut into shards: every sample lands in exactly one, and no shard is empty.

Only virtual clients share samples, so that there can be any number of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import Indices, Samples
from fedloom_client.seeds import generator
from fedloom_edge.errors import InputError, unknown

VIRTUAL = "virtual"
"""Each client draws its samples from all of them, whatever others draw."""
_LARGEST = 1e6  # far beyond it Dirichlet's draws overflow: one client would get nearly everything

Cut = Callable[[Samples, int, float, np.random.Generator], NDArray[np.int64]]
"""(samples, clients, parameter, generator) -> the client of each sample (N,)."""


@dataclass(frozen=True)
class Partition:
    """A way to cut samples, with its parameter.

    Attributes:
        kind: iid, dirichlet, pathological, quantity, natural or virtual.
        parameter: alpha of dirichlet and quantity, classes of pathological and samples of virtual a
            client; else 0.
    """

    kind: str
    parameter: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Read `iid`, `dirichlet:0.3`, `pathological:2`, `quantity:1` or `natural`.

        Raises:
            InputError: an unknown kind, or a parameter that is missing, superfluous or out of range.
        """
        kind, colon, value = text.lower().partition(":")
        if kind not in (kinds := (*_CUTS, VIRTUAL)):
            raise unknown("partition", kind, kinds)
        example = _EXAMPLES.get(kind)
        if example is None:
            if colon:
                raise InputError(f"--partition {text}: {kind} takes no parameter; write {kind}")
            return cls(kind)
        try:
            parameter = float(value)
        except ValueError:
            raise InputError(f"--partition {text}: write {kind}:NUMBER, for example {example}") from None
        whole = kind not in ("pathological", VIRTUAL) or (parameter >= 1 and parameter == int(parameter))
        if not (0 < parameter <= _LARGEST and whole):
            raise InputError(f"--partition {text}: out of range (up to {_LARGEST:g}); for example {example}")
        return cls(kind, parameter)

    def cut(self, samples: Samples, clients: int, seed: int) -> Sequence[Indices]:
        """Indices of each client's samples, ascending; the same for the same seed.

        Raises:
            InputError: more clients than samples, or the samples lack what this partition needs.
        """
        if clients < 1:
            raise InputError(f"--clients {clients}: give at least 1")
        if self.kind == VIRTUAL:
            return VirtualShards(len(samples), clients, int(self.parameter), seed)
        if clients > len(samples):
            raise InputError(
                f"--clients {clients}: there are only {len(samples)} samples; give fewer clients"
            )
        rng = generator(seed, "partition", self.kind)
        owners = _without_empty(_CUTS[self.kind](samples, clients, self.parameter, rng), clients)
        order = np.argsort(owners, kind="stable")
        return np.split(order, np.cumsum(np.bincount(owners, minlength=clients))[:-1])


class VirtualShards(Sequence[Indices]):
    """Shards that are drawn when they are asked for, each by its own seed: a million cost nothing.

    Args:
        total: samples to draw from.
        clients: how many shards.
        size: samples of a shard, none twice in it.
        seed: of all draws.

    Raises:
        InputError: a shard would be larger than all of the samples.
    """

    def __init__(self, total: int, clients: int, size: int, seed: int) -> None:
        if size > total:
            raise InputError(f"--partition virtual:{size}: there are only {total} samples; give fewer")
        self._total, self._clients, self.size, self._seed = total, clients, size, seed

    def __len__(self) -> int:
        return self._clients

    @overload
    def __getitem__(self, client: int) -> Indices: ...
    @overload
    def __getitem__(self, client: slice) -> Sequence[Indices]: ...
    def __getitem__(self, client: int | slice) -> Indices | Sequence[Indices]:
        if isinstance(client, slice):
            return [self[index] for index in range(*client.indices(self._clients))]
        if not 0 <= client < self._clients:
            raise IndexError(client)
        draw = generator(self._seed, "partition", VIRTUAL, client)
        return np.sort(draw.choice(self._total, self.size, replace=False))


def _iid(samples: Samples, clients: int, _: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Equal shares (sizes differ by one at most) at random."""
    return rng.permutation(np.arange(len(samples)) % clients)


def _dirichlet(samples: Samples, clients: int, alpha: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Each class is shared out by Dirichlet(alpha) over clients (Hsu et al., 2019, section 3)."""
    labels = _labels(samples, "dirichlet")
    owners = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        owners[members] = _shares(rng.dirichlet(np.full(clients, alpha)), len(members))
    return owners


def _quantity(samples: Samples, clients: int, alpha: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sizes are drawn from Dirichlet(alpha), samples at random (Li et al., 2022, NIID-Bench, section IV)."""
    return rng.permutation(_shares(rng.dirichlet(np.full(clients, alpha)), len(samples)))


def _pathological(
    samples: Samples, clients: int, classes: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each client has at most `classes` classes, of each an equal share (McMahan et al., 2017, section 3)."""
    labels = _labels(samples, "pathological")
    names = np.unique(labels)
    wanted = min(int(classes), len(names))
    if clients * wanted < len(names):
        raise InputError(
            f"--partition pathological:{wanted} with {clients} clients covers {clients * wanted} of "
            f"{len(names)} classes; give more clients or more classes a client"
        )
    # Each client takes the classes that the fewest have so far, ties by lot: every class goes to nearly
    # as many clients as any other, never twice to one, and classes meet in all combinations.
    held = np.zeros((clients, len(names)), np.bool_)
    counts = np.zeros(len(names), np.int64)
    for client in range(clients):
        chosen = np.lexsort((rng.random(len(names)), counts))[:wanted]
        held[client, chosen] = True
        counts[chosen] += 1
    owners = np.empty(len(labels), np.int64)
    for index, label in enumerate(names):
        members = rng.permutation(np.flatnonzero(labels == label))
        holders = np.flatnonzero(held[:, index])
        owners[members] = holders[np.arange(len(members)) % len(holders)]
    return owners


def _natural(samples: Samples, clients: int, _: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """By the samples' own groups; with fewer clients than groups each takes several, balanced by size."""
    groups = samples.groups
    if groups is None:
        raise InputError(
            "--partition natural: these samples have no natural groups; use iid or dirichlet:ALPHA"
        )
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if clients > len(names):
        raise InputError(
            f"--clients {clients}: there are {len(names)} natural groups; give at most that many"
        )
    if clients == len(names):
        return members.astype(np.int64)
    loads = np.zeros(clients, np.int64)
    owner_of = np.empty(len(names), np.int64)
    for group in np.argsort(-sizes, kind="stable"):  # the largest first, to the client with least so far
        owner_of[group] = np.argmin(loads)
        loads[owner_of[group]] += sizes[group]
    return owner_of[members]


_CUTS: dict[str, Cut] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "quantity": _quantity,
    "natural": _natural,
}
_EXAMPLES = {
    "dirichlet": "dirichlet:0.3",
    "pathological": "pathological:2",
    "quantity": "quantity:1",
    "virtual": "virtual:50",
}


def natural_groups(samples: Samples) -> int:
    """How many natural groups there are; 0 for none."""
    return 0 if samples.groups is None else len(np.unique(samples.groups))


def _labels(samples: Samples, kind: str) -> NDArray[np.int64]:
    if samples.labels is None:
        raise InputError(
            f"--partition {kind} needs class labels and this task has none; use iid or quantity:1"
        )
    return samples.labels


def _shares(proportions: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """`count` owners in blocks whose sizes follow the proportions, by rounding their running sum."""
    ends = np.round(np.cumsum(proportions) * count).astype(np.int64)
    ends[-1] = count
    return np.searchsorted(ends, np.arange(count), side="right").astype(np.int64)


def _without_empty(owners: NDArray[np.int64], clients: int) -> NDArray[np.int64]:
    """Give each client without a sample one from the client that has most."""
    sizes = np.bincount(owners, minlength=clients)
    for client in np.flatnonzero(sizes == 0):
        donor = int(np.argmax(sizes))
        owners[np.flatnonzero(owners == donor)[-1]] = client
        sizes[donor] -= 1
        sizes[client] += 1
    return owners
