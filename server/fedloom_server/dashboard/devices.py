"""The devices of a run, where it has real ones: who they are and how they last said they are."""

from typing import Any

from fedloom_server.dashboard.database import Database, finite

_DEVICE = (
    "id", "client", "address", "board", "machine", "system", "cores", "memory_total", "version", "trainer",
    "connected", "last_seen", "work", "reason",
)  # fmt: skip
_SAMPLE = ("time", "cpu", "temperature", "memory", "rss", "throttled", "disk_free", "power", "uptime")


def devices(database: Database) -> list[dict[str, Any]]:
    """Every device with its last sample; empty for a simulation."""
    latest = _latest_samples(database)
    unknown = dict.fromkeys(_SAMPLE)
    found = []
    for row in database.table("device", _DEVICE, "ORDER BY id"):
        device = dict(zip(_DEVICE, row, strict=True))
        found.append(finite({**device, **latest.get(device["id"], unknown)}))
    return found


def device_of(database: Database, client: int) -> dict[str, Any] | None:
    """The device that is a client of the run, or None."""
    return next((device for device in devices(database) if device["client"] == client), None)


def samples(database: Database, device: str, limit: int = 500) -> list[dict[str, Any]]:
    """A device's last samples in order."""
    where = "WHERE device = ? ORDER BY time DESC LIMIT ?"
    rows = database.table("device_sample", _SAMPLE, where, (device, limit))
    return [finite(dict(zip(_SAMPLE, row, strict=True))) for row in rows[::-1]]


def _latest_samples(database: Database) -> dict[str, dict[str, Any]]:
    newest = "WHERE (device, time) IN (SELECT device, max(time) FROM device_sample GROUP BY device)"
    rows = database.table("device_sample", ("device", *_SAMPLE), newest)
    return {row[0]: dict(zip(_SAMPLE, row[1:], strict=True)) for row in rows}
