"""Rows of the run store as dataclasses, and what they are in SQLite."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any


@dataclass(frozen=True)
class ClientRow:
    """A client of the run; the columns of table `client`."""

    id: int
    name: str
    examples: int
    validation: int
    labels: list[int] | None = None


@dataclass(frozen=True)
class ClientRound:
    """What one client did in one phase of a round; the columns of table `client_round`."""

    round: int
    client: int
    phase: str
    status: str
    reason: str = ""
    examples: int | None = None
    loss: float | None = None
    metric: float | None = None
    gradient_norm: float | None = None
    seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    finished: float | None = None


@dataclass(frozen=True)
class Round:
    """What a round came to; the columns of table `round`."""

    number: int
    loss: float | None
    metric: float | None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    train_loss: float | None = None
    federated_loss: float | None = None
    federated_metric: float | None = None
    worst_metric: float | None = None
    clients_ok: int = 0
    clients_failed: int = 0
    rejected: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    arrays: str = ""
    train_seconds: float | None = None
    aggregate_seconds: float | None = None
    norm_limit: float | None = None


_JSON_COLUMNS = ("labels", "metrics", "data")
_VALUES = {kind: attrgetter(*(f.name for f in fields(kind))) for kind in (ClientRow, ClientRound, Round)}


def cells_of(entry: ClientRow | ClientRound | Round) -> tuple[Any, ...]:
    """What stands in the columns of an entry's table, in their order."""
    # Not dataclasses.astuple, which copies deeply: a fifth of a round of a hundred small clients.
    cells = _VALUES[type(entry)](entry)
    return tuple([json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in cells])


def values_of(row: sqlite3.Row) -> dict[str, Any]:
    """A row by its columns; what stands there as JSON is read."""
    return {
        key: json.loads(row[key]) if key in _JSON_COLUMNS and row[key] is not None else row[key]
        for key in row.keys()  # noqa: SIM118  (iterating a Row yields values, not keys)
    }
