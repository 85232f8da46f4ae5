"""Refused updates kept for inspection: a bounded number, the newest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

from fedloom_client.flower.records import from_record
from fedloom_edge.arrays import Arrays
from fedloom_server.store.run_store import RunStore

KEPT = 20
"""How many refused updates a run keeps."""
SUSPECTS = 4
"""How many updates of a round are held until its norms are known."""


@dataclass(frozen=True)
class Refused:
    """One refused update.

    Attributes:
        client: who sent it.
        reason: `rule: figure`.
        norm: of its difference to the global arrays; None where it was not measured.
        examples: that it claimed, where that is a number.
        size: bytes of the reply.
        arrays: what was sent; None where it was not kept.
    """

    client: int
    reason: str
    norm: float | None
    examples: int | None
    size: int
    arrays: Arrays | None


@dataclass
class Suspects:
    """The replies of a round with the largest norms, until it is known which of them are outliers."""

    held: dict[int, tuple[float, Callable[[], Message]]] = field(
        default_factory=dict[int, tuple[float, Callable[[], Message]]]
    )

    def add(self, client: int, reply: Callable[[], Message], norm: float) -> None:
        """Hold what gives a reply if its norm is among the largest."""
        self.held[client] = (norm, reply)
        if len(self.held) > SUSPECTS:
            del self.held[min(self.held, key=lambda client: (self.held[client][0], -client))]

    def refused(self, client: int, reason: str, norm: float, size: int) -> Refused:
        """The update of `client`, with its arrays where they were held."""
        reply = self.held[client][1]() if client in self.held else None
        arrays = None if reply is None else readable(reply)
        return Refused(client, reason, norm, _examples(reply), size, arrays)


def refused_on_arrival(client: int, reply: Message, reason: str, size: int) -> Refused:
    """An update that broke a rule by itself; what of it can be read is kept."""
    # Anything may be in it, of any size: only what has the task's layout is worth a file.
    whole = reason.startswith(("finite", "stale", "examples", "metrics"))
    return Refused(client, reason, None, _examples(reply), size, readable(reply) if whole else None)


def readable(reply: Message) -> Arrays | None:
    """A reply's arrays, or None where they are no arrays that a file can hold."""
    try:
        arrays = from_record(reply.content.array_records["arrays"])
    except (KeyError, ValueError, TypeError, OSError, EOFError):
        return None
    return arrays if all(array.dtype.kind in "fiu" for array in arrays.values()) else None


def keep(store: RunStore, round_number: int, attempt: int, refused: list[Refused]) -> None:
    """Write refused updates and drop the oldest beyond `KEPT`; call it inside `transaction`."""
    for entry in refused[:KEPT]:
        digest = store.put_arrays(entry.arrays) if entry.arrays else None
        rule = entry.reason.partition(":")[0]
        values = (round_number, entry.client, attempt, rule, entry.reason, entry.norm, entry.examples)
        store.execute(
            "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, entry.size, digest),
        )
    store.execute(
        "DELETE FROM quarantine WHERE (round, client, attempt) NOT IN "
        "(SELECT round, client, attempt FROM quarantine ORDER BY round DESC, attempt DESC, client LIMIT ?)",
        (KEPT,),
    )


def _examples(reply: Message | None) -> int | None:
    if reply is None or "metrics" not in reply.content.metric_records:
        return None
    count: Any = reply.content.metric_records["metrics"].get("num-examples")
    return count if isinstance(count, int) and abs(count) < 2**62 else None
