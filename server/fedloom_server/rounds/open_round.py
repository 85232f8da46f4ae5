"""The round that is going on: what of it is done, in a form that survives a crash."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from fedloom_server.rounds.messages import Batch, Traffic
from fedloom_server.store.rows import ClientRound
from fedloom_server.store.run_store import RunStore

_SHARE = 0.02  # of the time that saving an open round may take


@dataclass
class OpenRound:
    """A round between its first message and its place in the store.

    Attributes:
        number: from 1.
        batch: the rows of the phase and attempt that is going on.
        attempt: from 1; a round with too few good updates is repeated.
        rows: client -> its training row, of attempts that are over.
        events: (kind, client, data) to be written with the round.
        traffic: bytes so far.
        train_loss: once training is over.
        train_seconds: until the last update was in, once training is over.
        aggregate_seconds: that the strategy took.
        norm_limit: the guard's line, once training is over; None where it draws none.
        seconds: spent on it by processes before this one.
        updates: what an `Updates` said was in when the round was saved; empty unless it goes on from there.
    """

    number: int
    batch: Batch
    attempt: int = 1
    rows: dict[int, ClientRound] = field(default_factory=dict[int, ClientRound])
    events: list[tuple[str, int | None, dict[str, Any]]] = field(
        default_factory=list[tuple[str, int | None, dict[str, Any]]]
    )
    traffic: Traffic = field(default_factory=Traffic)
    train_loss: float | None = None
    train_seconds: float = 0.0
    aggregate_seconds: float = 0.0
    norm_limit: float | None = None
    seconds: float = 0.0
    updates: dict[str, Any] = field(default_factory=dict[str, Any])
    began: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Seconds spent on the round."""
        return self.seconds + time.perf_counter() - self.began

    def note(self, kind: str, client: int | None = None, **data: Any) -> None:
        """Keep an event for when the round is written."""
        self.events.append((kind, client, data))

    def note_faults(self) -> None:
        """Keep an event for every client of the batch that gave no good update, and for warnings."""
        for row in self.batch.rows:
            if row.status != "ok":
                self.note(row.status, row.client, reason=row.reason)
            for warning in row.metrics.get("warnings", ()):
                self.note("warning", row.client, reason=warning)

    def write_events(self, store: RunStore) -> None:
        """Write the events; call it inside `transaction`."""
        for kind, client, data in self.events:
            store.event(kind, round_number=self.number, client=client, **data)
        self.events.clear()

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "number": self.number,
            "phase": self.batch.phase,
            "metric": self.batch.metric,
            "batch": [asdict(row) for row in self.batch.rows],
            "attempt": self.attempt,
            "rows": [asdict(row) for row in self.rows.values()],
            "events": self.events,
            "traffic": asdict(self.traffic),
            "train_loss": self.train_loss,
            "train_seconds": self.train_seconds,
            "aggregate_seconds": self.aggregate_seconds,
            "norm_limit": self.norm_limit,
            "seconds": self.elapsed(),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """What `state` gave."""
        batch = Batch(state["number"], state["phase"], state["metric"], _rows(state["batch"]))
        return cls(
            state["number"],
            batch,
            state["attempt"],
            _rows(state["rows"]),
            [(kind, client, data) for kind, client, data in state["events"]],
            Traffic(**state["traffic"]),
            state["train_loss"],
            state["train_seconds"],
            state["aggregate_seconds"],
            state.get("norm_limit"),
            state["seconds"],
            state["updates"],
        )


def _rows(rows: list[dict[str, Any]]) -> dict[int, ClientRound]:
    return {row["client"]: ClientRound(**row) for row in rows}


class Pace:
    """When it is time to save the open round: not more often than `seconds`, nor for more than 2 % of time.

    Slow devices thus have every update saved, and a simulation of a thousand fast ones pays nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cost = 0.0
        self._last = time.perf_counter()

    def due(self) -> bool:
        """Whether to save now."""
        waited = time.perf_counter() - self._last
        return waited >= self._seconds and waited * _SHARE >= self._cost * bool(self._seconds)

    def saved(self, began: float) -> None:
        """Note that something was saved, from `began` (`perf_counter`) until now."""
        self._last = time.perf_counter()
        self._cost = self._last - began
