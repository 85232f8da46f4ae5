"""Several runs side by side: their curves, and where their configurations differ."""

import json
from collections.abc import Mapping
from typing import Any

from fedloom_server.dashboard.database import Database, columnar
from fedloom_server.dashboard.history import ROUND
from fedloom_server.dashboard.state import elapsed, status

FEWEST, MOST = 2, 6
_CONFIGURATION = (
    "task", "engine", "strategy", "partition", "seed", "clients", "planned_rounds", "training", "versions",
)  # fmt: skip
_COLUMNS = ("number", "loss", "metric", "federated_metric", "worst_metric", "seconds", "bytes_up")


def comparison(databases: Mapping[str, tuple[str, Database]]) -> dict[str, Any]:
    """Runs by id, each with its name; their rounds and the settings that are not the same in all."""
    runs = [_run(run, name, database) for run, (name, database) in databases.items()]
    settings = {run["id"]: run.pop("configuration") for run in runs}
    keys = sorted({key for values in settings.values() for key in values})
    differences = []
    for key in keys:
        values = [values.get(key) for values in settings.values()]
        if any(value != values[0] for value in values):
            differences.append({"key": key, "values": values})
    same = len(keys) - len(differences)
    return {"runs": runs, "differences": differences, "same": same}


def _run(run: str, name: str, database: Database) -> dict[str, Any]:
    facts = database.facts()
    names = [column for column in _COLUMNS if column in ROUND]
    rounds = columnar(names, database.table("round", names, "ORDER BY number"))
    return {
        "id": run,
        "name": name,
        "status": status(facts),
        "metric": facts.get("metric", "metric"),
        "seconds": elapsed(facts),
        "rounds": rounds,
        "configuration": dict(_flat({key: facts[key] for key in _CONFIGURATION if key in facts})),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """`{"training": {"lr": 0.1}}` as `[("training.lr", "0.1")]`."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            name = key if key.startswith(prefix) else f"{prefix}{key}"
            found.append((name, value if isinstance(value, str) else json.dumps(value)))
    return found
