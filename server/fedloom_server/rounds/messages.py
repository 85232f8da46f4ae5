"""What goes to clients and what comes back: contents, byte counts, and a row a reply."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedloom_client.flower.records import count_bytes
from fedloom_server.guard.guard import Finding
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_server.store.rows import ClientRound

DOWNLOAD, UPLOAD = "download-seconds", "upload-seconds"
"""A link's figures among a client's metrics: how long the model took to it, and the update back."""
NORM = "update-norm"
"""The guard's figure among a client's metrics: L2 norm of its difference to the global arrays."""


def attach(messages: Sequence[Message], *, arrays: ArrayRecord, constants: ArrayRecord) -> None:
    """Put the whole model and the preprocessing constants into every message of a phase.

    A strategy may have been given a part of the model only, and knows nothing of preprocessing.
    """
    extra = {"preprocess": constants} if constants else {}
    made: dict[int, tuple[RecordDict, RecordDict]] = {}  # strategies give many messages one content
    for message in messages:
        old = message.content
        if id(old) not in made:
            made[id(old)] = (old, RecordDict({**old, "arrays": arrays, **extra}))
        message.content = made[id(old)][1]


@dataclass
class Traffic:
    """Bytes of arrays, metrics and settings that crossed the grid in a round."""

    up: int = 0
    down: int = 0

    def sent(self, messages: Sequence[Message]) -> None:
        """Count messages to clients."""
        counts: dict[int, int] = {}  # messages of a phase share their content
        for message in messages:
            content = message.content
            if id(content) not in counts:
                counts[id(content)] = _bytes(message)
            self.down += counts[id(content)]

    def received(self, reply: Message) -> int:
        """Count a reply; returns its bytes."""
        count = 0 if reply.has_error() else _bytes(reply)
        self.up += count
        return count


def _bytes(message: Message) -> int:
    return sum(count_bytes(record) for record in message.content.values())


@dataclass
class Batch:
    """The replies of one phase of a round, a row each."""

    round_number: int
    phase: str
    metric: str
    entries: dict[int, ClientRound] = field(default_factory=dict[int, ClientRound])
    began: float = field(default_factory=time.perf_counter)

    def add(self, client: int, reply: Message, finding: Finding, count: int) -> None:
        """Take in a reply of `count` bytes, of which the guard says `finding`."""
        if reply.has_error():
            self._note(client, "failed", reply.error.reason or f"error code {reply.error.code}")
        elif finding.reason:
            self._note(client, "rejected", finding.reason, bytes_up=count)
        else:
            content: Any = reply.content
            warnings = content.get("warnings")
            said: Any = warnings["warnings"] if isinstance(warnings, ConfigRecord) else ()
            self._take(client, content["metrics"], said, finding, count)

    def add_stack(self, clients: Sequence[int], stack: StackedReplies, findings: Sequence[Finding]) -> int:
        """Take in the replies of many clients; returns their bytes."""
        sizes = stack.sizes()
        for k, (client, finding) in enumerate(zip(clients, findings, strict=True)):
            if finding.reason:
                self._note(client, "rejected", finding.reason, bytes_up=sizes[k])
            else:
                self._take(client, stack.metrics[k], stack.warnings[k], finding, sizes[k])
        return sum(sizes)

    def refuse(self, client: int, reason: str) -> None:
        """Turn an accepted reply into a rejected one."""
        self.entries[client] = replace(self.entries[client], status="rejected", reason=reason)

    def missing(self, client: int, reason: str) -> None:
        """Note a client that gave no reply."""
        self._note(client, "failed", reason)

    @property
    def norms(self) -> dict[int, float]:
        """Norm of each accepted update that could be looked at."""
        good = {client: row.metrics for client, row in self.entries.items() if row.status == "ok"}
        return {client: metrics[NORM] for client, metrics in good.items() if NORM in metrics}

    def reported(self) -> dict[int, dict[str, Any]]:
        """The figures that each accepted client itself reported."""
        return {
            client: {name: value for name, value in row.metrics.items() if name not in (NORM, "warnings")}
            for client, row in self.entries.items()
            if row.status == "ok"
        }

    @property
    def rows(self) -> list[ClientRound]:
        """One row a client for the store, in the order of the shards."""
        return [self.entries[client] for client in sorted(self.entries)]

    @property
    def accepted(self) -> int:
        """How many replies may reach the strategy."""
        return sum(row.status == "ok" for row in self.entries.values())

    def first_fault(self) -> str:
        """The first failure or refusal in words."""
        faults = (f"client {row.client}: {row.reason}" for row in self.rows if row.reason)
        return next(faults, "the strategy chose no client")

    def _note(self, client: int, status: str, reason: str, **figures: Any) -> None:
        finished = time.perf_counter() - self.began
        self.entries[client] = ClientRound(
            self.round_number, client, self.phase, status, reason, finished=finished, **figures
        )

    def _take(
        self, client: int, reported: Mapping[str, Any], warnings: Sequence[str], finding: Finding, count: int
    ) -> None:
        metrics: dict[str, Any] = dict(reported)
        if finding.norm is not None:
            metrics[NORM] = finding.norm
        if warnings:
            metrics["warnings"] = list(warnings)
        self._note(
            client,
            "ok",
            "",
            bytes_up=count,
            # Where updates are masked the number is in their sum.
            examples=(metrics["num-examples"] or None) if self.phase == "train" else metrics["num-examples"],
            loss=metrics.get("train-loss" if self.phase == "train" else "loss"),
            metric=metrics.get(self.metric),
            gradient_norm=metrics.get("gradient-norm"),
            seconds=metrics.get("seconds"),
            metrics=metrics,
        )
