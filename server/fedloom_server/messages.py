"""What goes to clients and what comes back: contents, byte counts, and replies in a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from fedloom_client.flower_app import from_record
from fedloom_edge.arrays import Arrays
from fedloom_server.store import ClientRound


def attach(messages: Sequence[Message], *, arrays: ArrayRecord, constants: ArrayRecord) -> None:
    """Put the whole model and the preprocessing constants into every message of a phase.

    A strategy may have been given a part of the model only, and knows nothing of preprocessing.
    """
    extra = {"preprocess": constants} if constants else {}
    for message in messages:
        message.content = RecordDict({**message.content, "arrays": arrays, **extra})


def split_statistics(record: ArrayRecord, statistics: frozenset[str]) -> tuple[ArrayRecord, ArrayRecord]:
    """A record's trained arrays and its statistics, without copying either."""
    trained = ArrayRecord({name: array for name, array in record.items() if name not in statistics})
    rest = ArrayRecord({name: array for name, array in record.items() if name in statistics})
    return trained, rest


def with_statistics(replies: Sequence[Message], statistics: frozenset[str]) -> tuple[list[Message], Arrays]:
    """Replies with their trained arrays only, and the statistics' mean weighted by examples."""
    if not statistics:
        return list(replies), {}
    total: Arrays = {}
    examples = 0
    for reply in replies:
        trained, rest = split_statistics(reply.content.array_records["arrays"], statistics)
        count: Any = reply.content.metric_records["metrics"]["num-examples"]
        examples += count
        for name, array in from_record(rest).items():
            total[name] = total.get(name, 0.0) + array.astype("float64") * count
        reply.content["arrays"] = trained
    return list(replies), {name: array / examples for name, array in total.items()}


@dataclass
class Traffic:
    """Bytes of arrays, metrics and settings that crossed the grid in a round."""

    up: int = 0
    down: int = 0

    def sent(self, messages: Sequence[Message]) -> None:
        """Count messages to clients."""
        self.down += sum(_bytes(message) for message in messages)

    def received(self, reply: Message) -> int:
        """Count a reply; returns its bytes."""
        count = 0 if reply.has_error() else _bytes(reply)
        self.up += count
        return count


def _bytes(message: Message) -> int:
    return sum(record.count_bytes() for record in message.content.values())


@dataclass
class Batch:
    """The replies of one phase of a round."""

    round_number: int
    phase: str
    metric: str
    replies: dict[int, Message] = field(default_factory=dict[int, Message])
    entries: dict[int, ClientRound] = field(default_factory=dict[int, ClientRound])

    def add(self, client: int, reply: Message, reason: str, count: int) -> None:
        """Take in a reply; `reason` is the guard's, empty where it accepts."""
        if reply.has_error():
            self._note(client, "failed", reply.error.reason or f"error code {reply.error.code}")
        elif reason:
            self._note(client, "rejected", reason, bytes_up=count)
        else:
            self.replies[client] = reply
            self._note(client, "ok", "", bytes_up=count, **self._figures(reply))

    def missing(self, client: int) -> None:
        """Note a client that gave no reply."""
        self._note(client, "failed", "no reply")

    def in_order(self) -> "Batch":
        """The same with clients in the order of their shards, so that sums do not depend on arrival."""
        self.replies = dict(sorted(self.replies.items()))
        self.entries = dict(sorted(self.entries.items()))
        return self

    @property
    def accepted(self) -> list[Message]:
        """Replies that may reach a strategy."""
        return list(self.replies.values())

    @property
    def rows(self) -> list[ClientRound]:
        """One row a client for the store."""
        return list(self.entries.values())

    def first_fault(self) -> str:
        """The first failure or refusal in words."""
        faults = (f"client {row.client}: {row.reason}" for row in self.rows if row.reason)
        return next(faults, "the strategy chose no client")

    def _note(self, client: int, status: str, reason: str, **figures: Any) -> None:
        self.entries[client] = ClientRound(self.round_number, client, self.phase, status, reason, **figures)

    def _figures(self, reply: Message) -> dict[str, Any]:
        metrics: dict[str, Any] = dict(reply.content.metric_records["metrics"])
        if "warnings" in reply.content.config_records:
            metrics["warnings"] = reply.content.config_records["warnings"]["warnings"]
        training = self.phase == "train"
        return {
            "examples": metrics["num-examples"],
            "loss": metrics.get("train-loss" if training else "loss"),
            "metric": metrics.get(self.metric),
            "gradient_norm": metrics.get("gradient-norm"),
            "seconds": metrics.get("seconds"),
            "metrics": metrics,
        }
