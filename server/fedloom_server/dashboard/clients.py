"""Clients: in a round, over a run, and the ones that fail."""

import json
from itertools import pairwise
from typing import Any

from fedloom_server.dashboard.database import Database, columnar, finite
from fedloom_server.dashboard.devices import device_of
from fedloom_server.rounds.messages import DOWNLOAD, NORM, UPLOAD

_ALIKE = 1.2  # the largest shard against the smallest, below which there are no groups
_PART = (
    "status", "reason", "examples", "loss", "metric", "gradient_norm", "seconds", "finished",
    "bytes_up", "bytes_down",
)  # fmt: skip
_MEASURED = {"update_norm": NORM, "download_seconds": DOWNLOAD, "upload_seconds": UPLOAD}
"""What the coordinator measures itself and keeps among a client's metrics."""
_CELLS = tuple(
    f"CASE phase WHEN 'train' THEN json_extract(metrics, '$.\"{metric}\"') END"
    for metric in _MEASURED.values()
)
_JOINED = (
    "client", "status", "reason", "examples", "train_loss", "gradient_norm", "update_norm", "seconds",
    "finished", "download_seconds", "upload_seconds", "bytes_up", "bytes_down",
    "evaluate_status", "metric", "loss",
)  # fmt: skip


def round_clients(database: Database, number: int) -> dict[str, Any]:
    """What every client did in a round: its training and, beside it, its evaluation."""
    columns = ("client", "phase", *_PART)
    rows = database.table("client_round", columns, "WHERE round = ?", (number,), _CELLS)
    joined: dict[int, dict[str, Any]] = {}
    for client, phase, *cells in rows:
        part = dict(zip((*_PART, *_MEASURED), cells, strict=True))
        into = joined.setdefault(client, {"client": client})
        if phase == "train":
            into |= {
                **part,
                "train_loss": part["loss"],
                "loss": into.get("loss"),
                "metric": into.get("metric"),
            }
        else:
            into |= {"evaluate_status": part["status"], "metric": part["metric"], "loss": part["loss"]}
            if part["reason"]:
                into["reason"] = into.get("reason") or part["reason"]
    for who, norm in _refused_norms(database, "round", number):
        joined.setdefault(who, {"client": who})["update_norm"] = norm
    rows = [tuple(joined[client].get(name) for name in _JOINED) for client in sorted(joined)]
    return {"round": number, **columnar(_JOINED, rows)}


def clients(database: Database) -> dict[str, Any]:
    """Who takes part, with the group that a client stands in and its share of every class."""
    names = ("id", "name", "examples", "validation", "labels")
    rows = database.table("client", names, "ORDER BY id")
    groups = _groups(database, [(row[0], row[2]) for row in rows])
    cells = [(*row[:4], groups[row[0]], json.loads(row[4]) if row[4] else None) for row in rows]
    return columnar(("id", "name", "examples", "validation", "group", "labels"), cells)


def client(database: Database, number: int) -> dict[str, Any] | None:
    """One client over the whole run, or None if there is none."""
    names = ("id", "name", "examples", "validation", "labels")
    found = database.table("client", names, "WHERE id = ?", (number,))
    if not found:
        return None
    who = dict(zip(names, found[0], strict=True))
    who["labels"] = json.loads(who["labels"]) if who["labels"] else None
    query = "WHERE client = ? AND phase = ? ORDER BY round"
    columns = ("round", *_PART)
    trained = columnar(
        (*columns, *_MEASURED), database.table("client_round", columns, query, (number, "train"), _CELLS)
    )
    evaluated = columnar(columns, database.table("client_round", columns, query, (number, "evaluate")))
    refused = dict(_refused_norms(database, "client", number))
    trained["update_norm"] = [
        refused.get(place, norm) for place, norm in zip(trained["round"], trained["update_norm"], strict=True)
    ]
    events = ("id", "time", "kind", "round", "data")
    told = database.table("event", events, "WHERE client = ? ORDER BY id DESC LIMIT 100", (number,))
    return {
        **who,
        "train": trained,
        "evaluate": evaluated,
        "events": [
            {**dict(zip(events, row, strict=True)), "data": finite(json.loads(row[4]))} for row in told
        ],
        "excluded": number in (database.fact("excluded") or []),
        "attacker": number in (database.fact("attackers") or []),
        "device": device_of(database, number),
    }


def failures(database: Database, limit: int) -> list[dict[str, Any]]:
    """Clients that failed or were rejected, the most often first, each with its last reason."""
    # One pass by the index of events: client_round holds every client of every round.
    rows = database.rows(
        "SELECT client, kind, count(*), max(round), max(id) FROM event "
        "WHERE kind IN ('failed', 'rejected') AND client IS NOT NULL "
        "GROUP BY client, kind ORDER BY count(*) DESC, max(id) DESC LIMIT ?",
        (limit,),
    )
    return [
        {"client": who, "kind": kind, "times": times, "round": latest, "reason": _reason(database, event)}
        for who, kind, times, latest, event in rows
    ]


def _refused_norms(database: Database, of: str, number: int) -> list[tuple[int, float]]:
    """Norms of refused updates `of` a round by client, or of a client by round.

    They stand beside the updates that are kept for inspection.
    """
    by = "client" if of == "round" else "round"
    kept = database.table("quarantine", (by, "norm"), f"WHERE {of} = ?", (number,))
    return [(place, norm) for place, norm in kept if norm is not None]


def _reason(database: Database, event: int) -> str:
    return str(json.loads(database.value("SELECT data FROM event WHERE id = ?", (event,))).get("reason", ""))


def _groups(database: Database, sizes: list[tuple[int, int]]) -> dict[int, str]:
    """A client's group: its device's board, or else the quarter of the clients by number of examples."""
    if {"client", "board"} <= database.columns("device"):
        boards: dict[int, Any] = dict(
            database.rows("SELECT client, board FROM device WHERE client IS NOT NULL")
        )
        if boards:
            return {number: str(boards.get(number) or "unknown board") for number, _ in sizes}
    ordered = sorted(count for _, count in sizes)
    if not ordered or ordered[-1] < _ALIKE * ordered[0]:
        return {number: "all clients" for number, _ in sizes}
    cuts = [ordered[(len(ordered) - 1) * quarter // 4] for quarter in (1, 2, 3)]
    names = _names(ordered[0], cuts, ordered[-1])
    return {number: names[sum(count > cut for cut in cuts)] for number, count in sizes}


def _names(low: int, cuts: list[int], high: int) -> list[str]:
    edges = [low - 1, *cuts, high]
    return [
        f"{first + 1:,} to {last:,} examples" if last > first + 1 else f"{last:,} examples"
        for first, last in pairwise(edges)
    ]
