"""A run's rounds, events and facts, from a point on: the same answer opens a page and keeps it fresh."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom_server.dashboard.artifacts import artifact_path
from fedloom_server.dashboard.database import Database, columnar, finite
from fedloom_server.dashboard.state import LIVE, elapsed, eta, last_seen, state
from fedloom_server.report.explained import PICTURES

ROUND = (
    "number", "loss", "metric", "train_loss", "federated_loss", "federated_metric", "worst_metric",
    "clients_ok", "clients_failed", "rejected", "bytes_up", "bytes_down", "seconds",
    "train_seconds", "aggregate_seconds", "norm_limit",
)  # fmt: skip
EVENTS = 200  # of them in one answer
_FACTS = (
    "task", "engine", "strategy", "partition", "seed", "clients", "planned_rounds", "metric", "class_names",
    "training", "versions", "baselines", "reason", "started", "onnx_difference", "excluded", "privacy",
    "attackers",
)  # fmt: skip


def run_history(
    run: str, folder: Path, database: Database, after_round: int, after_event: int
) -> dict[str, Any]:
    """Where a run stands, its rounds after `after_round` and its last events after `after_event`."""
    facts = database.facts()
    now = state(database)
    recent = database.rows("SELECT seconds FROM round WHERE number > 0 ORDER BY number DESC LIMIT 10")
    where = "WHERE number > ? ORDER BY number"
    rounds = columnar(ROUND, database.table("round", ROUND, where, (after_round,)))
    rounds["epsilon"] = _epsilon(database, where, after_round)
    return {
        "id": run,
        "name": folder.name,
        "folder": str(folder),
        **now.as_json(),
        "facts": finite({key: facts[key] for key in _FACTS if key in facts}) | _disturbed(facts),
        "seconds": elapsed(facts),
        "eta": eta(now, [seconds for (seconds,) in recent]),
        "last_seen": last_seen(folder, database),
        "live": now.status in LIVE,
        "rounds": rounds,
        "events": events(database, after_event, EVENTS, newest=True),
        "commands": open_commands(database),
        "pictures": {name: what for name, what in PICTURES.items() if artifact_path(folder, name)},
    }


def events(
    database: Database, after: int, limit: int, *, newest: bool = False, kind: str | None = None
) -> list[dict[str, Any]]:
    """Events after an id in order: the first `limit` of them, or the newest."""
    where = "WHERE id > ? AND (kind = ? OR ? IS NULL)"
    order = "ORDER BY id DESC" if newest else "ORDER BY id"
    names = ("id", "time", "kind", "round", "client", "data")
    rows = database.table("event", names, f"{where} {order} LIMIT ?", (after, kind, kind, limit))
    found = [event(dict(zip(names, row, strict=True))) for row in rows]
    return found[::-1] if newest else found


def event(row: dict[str, Any]) -> dict[str, Any]:
    """An event with its data as an object."""
    return {**row, "data": finite(json.loads(row["data"]))}


def open_commands(database: Database) -> list[dict[str, Any]]:
    """What was asked for and the round loop has not taken up yet."""
    names = ("id", "time", "who", "action", "client")
    rows = database.table("command", names, "WHERE taken IS NULL ORDER BY id")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _epsilon(database: Database, where: str, after_round: int) -> list[Any]:
    """The privacy spent after each round: the metric `epsilon` of runs that account for it."""
    rows = database.rows(f"SELECT json_extract(metrics, '$.epsilon') FROM round {where}", (after_round,))
    return [value if isinstance(value, int | float) else None for (value,) in rows]


def _disturbed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The attack and the faults that a simulation was asked for."""
    asked = facts.get("arguments") or {}
    return {name: asked[name] for name in ("attack", "faults") if asked.get(name)}
