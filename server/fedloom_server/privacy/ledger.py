"""The privacy ledger of a run: every release with noise, a row each, in the run's own database.

A row is written in the transaction that makes its release lasting, or in one of its own before anybody is
asked for it. Rows are never taken back, not even where a damaged checkpoint undoes rounds: what has been
released stays released. A release has a key: the same bits released again tell nobody anything new, so the
same key is counted once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from fedloom_server.privacy.accountant import Composition, largest
from fedloom_server.privacy.budget import FIGURES
from fedloom_server.store.run_store import RunStore

Unit = Literal["client", "sample"]
EVERYBODY = -1
"""The client of a release that every client's data has gone into."""


class Release(NamedTuple):
    """Something made of private data and noise that somebody gets to see; the columns of table `privacy`.

    Attributes:
        unit: what is hidden: a client with all its data, or one example of a client.
        round: in which it was made.
        client: whose data went into it; EVERYBODY for all clients'.
        key: tells it from other releases of the round.
        noise: standard deviation over sensitivity.
        rate: with which the unit was drawn by a coin of its own, in (0, 1].
        steps: how many such mechanisms it consists of.
    """

    unit: Unit
    round: int
    client: int
    key: str
    noise: float
    rate: float
    steps: int


class Ledger:
    """What has been released, in the store and beside it for what is not yet committed."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._pending: list[Release] = []
        self._known: set[tuple[str, int, int, str]] = set()
        self._counts: dict[tuple[Unit, int], Counter[tuple[float, float]]] = defaultdict(Counter)
        for row in store.execute("SELECT unit, round, client, key, noise, rate, steps FROM privacy"):
            self._take(Release(*row))

    def note(self, releases: Iterable[Release]) -> None:
        """Count releases, those that are known already once."""
        self._pending += [release for release in releases if self._take(release)]

    def write(self) -> None:
        """Write down what was noted; call it inside `transaction`."""
        for release in self._pending:
            self._store.execute("INSERT OR IGNORE INTO privacy VALUES (?, ?, ?, ?, ?, ?, ?)", release)
        self._pending.clear()

    def spent(self, unit: Unit) -> Mapping[int, Counter[tuple[float, float]]]:
        """Client -> (noise, rate) -> how often."""
        return {client: counts for (kind, client), counts in self._counts.items() if kind == unit}

    def epsilon(self, unit: Unit, delta: float) -> float:
        """Of the one that has lost most; 0 where nothing was released."""
        return largest({composition(counts) for counts in self.spent(unit).values()}, delta)

    def _take(self, release: Release) -> bool:
        key = release[:4]
        if key in self._known:
            return False
        self._known.add(key)
        self._counts[release.unit, release.client][release.noise, release.rate] += release.steps
        return True


def composition(counts: Mapping[tuple[float, float], int]) -> Composition:
    """Counts as the accountant takes them."""
    return tuple(sorted((noise, rate, count) for (noise, rate), count in counts.items()))


def told_spent(store: RunStore, told: Mapping[str, Any]) -> dict[str, float]:
    """What a run has spent, as `FIGURES`, with what was released in a round that it never finished.

    `told` is the fact `privacy` of the store, which says at which delta and for whom.
    """
    ledger = Ledger(store)
    units: dict[Unit, None] = dict.fromkeys((told["unit"], "sample"))
    return {
        name: ledger.epsilon(unit, told["delta"])
        for name, unit in zip(FIGURES, units, strict=False)
        if ledger.spent(unit)
    }
