"""Who shares masks with whom: a sparse graph, so that a client's work hardly grows with their number.

Bell, Bonawitz, Gascón, Lepoint & Raykova (2020), "Secure single-server aggregation with (poly)logarithmic
overhead", §3: a Harary graph over clients in random order.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from fedloom_client.secure.participant import MOST_NEIGHBOURS
from fedloom_client.seeds import generator

_RISK = 1e-2  # that a round in which the tolerated share of clients goes missing has to be repeated
_FEWEST = 20  # neighbours, of whom more than half must work together against a client


def threshold(degree: int) -> int:
    """Shares that give a secret back, of `degree` neighbours' and the client's own: more than half."""
    return (degree + 1) // 2 + 1


@lru_cache(maxsize=64)
def degree(clients: int, dropouts: float) -> int:
    """Neighbours of each client: the fewest with which losing a share `dropouts` of the clients does no harm.

    With few clients, all others.
    """
    lost = int(dropouts * clients)
    for count in range(_FEWEST, min(clients - 1, MOST_NEIGHBOURS), 2):
        need = threshold(count)
        stays = (clients - lost) * _fewer(clients - 1, clients - 1 - lost, count, need - 1)
        gone = lost * _fewer(clients - 1, clients - lost, count, need) if lost else 0.0
        if stays + gone <= _RISK:
            return count
    return min(clients - 1, MOST_NEIGHBOURS)


def neighbours(clients: Sequence[int], degree: int, seed: int) -> dict[int, list[int]]:
    """Each client's neighbours: the nearest on both sides in a circle of random order, or all others."""
    count = len(clients)
    if degree >= count - 1:
        return {client: [other for other in clients if other != client] for client in clients}
    circle = [clients[place] for place in generator(seed, "circle").permutation(count)]
    steps = [step for k in range(1, degree // 2 + 1) for step in (k, -k)]
    return {client: [circle[(place + step) % count] for step in steps] for place, client in enumerate(circle)}


def connected(graph: Mapping[int, Sequence[int]], left: Collection[int]) -> bool:
    """Whether those who are left hang together: otherwise the sum of each part would be known."""
    members = set(left)
    reached, waiting = set[int](), [next(iter(members))]
    while waiting:
        client = waiting.pop()
        if client not in reached:
            reached.add(client)
            waiting += [other for other in graph[client] if other in members]
    return reached == members


def _fewer(total: int, marked: int, drawn: int, bound: int) -> float:
    """Probability that of `drawn` out of `total` fewer than `bound` are among the `marked`."""
    cases = sum(math.comb(marked, hit) * math.comb(total - marked, drawn - hit) for hit in range(bound))
    return cases / math.comb(total, drawn)
