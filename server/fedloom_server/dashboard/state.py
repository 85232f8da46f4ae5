"""Where a run stands: its status, its progress, and what may be asked of it."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedloom_edge.errors import RunError
from fedloom_server.dashboard.database import Database, finite, reading
from fedloom_server.store.process_mark import is_gone
from fedloom_server.store.run_store import DATABASE

LIVE = ("running", "paused")
ENDED = ("finished", "interrupted", "failed", "crashed")
_RECENT = 10  # rounds whose median time the estimate goes by


@dataclass(frozen=True)
class State:
    """Where a run stands; `round` is -1 before anything was measured."""

    status: str
    round: int
    event: int
    planned: int
    progress: Any

    def as_json(self) -> dict[str, Any]:
        """For an answer or a notice."""
        return asdict(self)


def state(database: Database) -> State:
    """Where the run stands now; a running one whose process is gone has crashed."""
    rows = database.rows(
        "SELECT key, value FROM run WHERE key IN ('status', 'process', 'planned_rounds', 'progress')"
    )
    facts = {key: json.loads(value) for key, value in rows}
    return State(
        status=status(facts),
        round=_number(database.value("SELECT max(number) FROM round"), -1),
        event=_number(database.value("SELECT max(id) FROM event"), 0),
        planned=_number(facts.get("planned_rounds"), 0),
        progress=facts.get("progress"),
    )


def status(facts: Mapping[str, Any]) -> str:
    """One of LIVE or ENDED."""
    told = str(facts.get("status", "running"))
    if told in LIVE and is_gone(facts.get("process")):
        return "crashed"
    return told


def summary(run: str, folder: Path) -> dict[str, Any]:
    """A row of the list of runs; one that cannot be read is there too, with the reason."""
    try:
        with reading(folder) as database:
            return _summary(run, folder, database)
    except RunError as error:
        return {"id": run, "name": folder.name, "status": "unreadable", "reason": str(error)}


def _summary(run: str, folder: Path, database: Database) -> dict[str, Any]:
    facts = database.facts()
    now = state(database)
    rounds = database.table(
        "round",
        ("number", "loss", "metric", "worst_metric", "seconds", "clients_ok", "clients_failed", "rejected"),
        "ORDER BY number",
    )
    latest = rounds[-1] if rounds else (None,) * 8
    metrics = [row[2] for row in rounds]
    return {
        "id": run,
        "name": folder.name,
        **{key: facts.get(key) for key in ("task", "strategy", "partition", "engine", "seed", "clients")},
        "metric": facts.get("metric", "metric"),
        "reason": facts.get("reason", ""),
        "started": facts.get("started"),
        "seconds": elapsed(facts),
        **now.as_json(),
        "value": finite(latest[2]),
        "loss": finite(latest[1]),
        "worst": finite(latest[3]),
        "failed": sum(row[6] for row in rounds),
        "rejected": sum(row[7] for row in rounds),
        "eta": eta(now, [row[4] for row in rounds if row[0] > 0]),
        "sparkline": finite(thin(metrics, 60)),
        "last_seen": last_seen(folder, database),
    }


def eta(now: State, seconds: list[float]) -> float | None:
    """Seconds until a live run's planned end, by the median of its last rounds; None if unknown."""
    recent = sorted(seconds[-_RECENT:])
    if now.status not in LIVE or not recent:
        return None
    return recent[len(recent) // 2] * max(now.planned - max(now.round, 0), 0)


def elapsed(facts: Mapping[str, Any]) -> float | None:
    """Seconds that a run took, or has taken so far."""
    if status(facts) in LIVE and isinstance(facts.get("started"), int | float):
        return time.time() - float(facts["started"])
    seconds = facts.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def last_seen(folder: Path, database: Database) -> float | None:
    """When the run last wrote something, in seconds since the epoch."""
    told = database.value("SELECT time FROM event ORDER BY id DESC LIMIT 1")
    progress = database.fact("progress")
    if told is not None:
        return max(float(told), float((progress or {}).get("time", 0.0)))
    try:
        return (folder / DATABASE).stat().st_mtime
    except OSError:
        return None


def thin(values: list[Any], most: int) -> list[Any]:
    """At most `most` of the values, evenly spaced, the last one always among them."""
    if len(values) <= most:
        return values
    step = (len(values) - 1) / (most - 1)
    return [values[round(place * step)] for place in range(most)]


def _number(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
