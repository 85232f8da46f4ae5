"""The devices of a run, where it has real ones: who they are and how they last said they are."""

from typing import Any

from fedloom_server.dashboard.database import Database, finite

# What a device page shows, and the columns under which a store may keep it.
_ALIASES = {
    "id": ("id", "device"),
    "name": ("name", "id"),
    "client": ("client",),
    "board": ("board", "model"),
    "version": ("version",),
    "cores": ("cores",),
    "memory_total": ("memory_total", "memory_bytes"),
    "revoked": ("revoked",),
    "work": ("work", "state"),
}
_SAMPLE = {
    "time": ("time",),
    "temperature": ("temperature", "temperature_c"),
    "memory": ("memory", "memory_used", "rss_bytes"),
    "cpu": ("cpu", "cpu_share", "load"),
    "throttled": ("throttled",),
    "disk_free": ("disk_free", "disk_free_bytes"),
}


def devices(database: Database) -> list[dict[str, Any]]:
    """Every device with its last sample; empty for a simulation."""
    chosen = _choose(database, "device", _ALIASES)
    if "id" not in chosen:
        return []
    rows = _select(database, "device", chosen, "ORDER BY 1")
    latest = _latest_samples(database)
    found = []
    for row in rows:
        sample = latest.get(row["id"], {})
        found.append(
            {**dict.fromkeys((*_ALIASES, *_SAMPLE)), **row, **sample, "last_seen": sample.get("time")}
        )
        if found[-1]["last_seen"] is None and "last_seen" in database.columns("device"):
            query = f"SELECT last_seen FROM device WHERE {chosen['id']} = ?"
            found[-1]["last_seen"] = database.value(query, (row["id"],))
    return [finite(device) for device in found]


def samples(database: Database, device: str, limit: int = 500) -> list[dict[str, Any]]:
    """A device's last samples in order."""
    chosen, key = _choose(database, "device_sample", _SAMPLE), _device_column(database)
    if "time" not in chosen or key is None:
        return []
    where = f"WHERE {key} = ? ORDER BY {chosen['time']} DESC LIMIT ?"
    return [finite(row) for row in _select(database, "device_sample", chosen, where, (device, limit))][::-1]


def _latest_samples(database: Database) -> dict[Any, dict[str, Any]]:
    chosen, key = _choose(database, "device_sample", _SAMPLE), _device_column(database)
    if "time" not in chosen or key is None:
        return {}
    newest = f"SELECT rowid FROM device_sample AS s GROUP BY s.{key} HAVING max(s.{chosen['time']})"
    where = f"WHERE rowid IN ({newest})"
    rows = _select(database, "device_sample", {**chosen, "_device": key}, where)
    return {row.pop("_device"): row for row in rows}


def _device_column(database: Database) -> str | None:
    there = database.columns("device_sample")
    return next((name for name in ("device", "device_id") if name in there), None)


def _choose(database: Database, table: str, aliases: dict[str, tuple[str, ...]]) -> dict[str, str]:
    there = database.columns(table)
    found = {name: next((a for a in known if a in there), "") for name, known in aliases.items()}
    return {name: column for name, column in found.items() if column}


def _select(
    database: Database, table: str, chosen: dict[str, str], where: str, values: tuple[Any, ...] = ()
) -> list[dict[str, Any]]:
    cells = ", ".join(chosen.values())
    rows = database.rows(f"SELECT {cells} FROM {table} {where}", values)
    return [dict(zip(chosen, row, strict=True)) for row in rows]
