"""What devices tell of themselves, into the run's database, for whoever watches."""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from fedloom_protos.v1 import link_pb2 as pb

SAMPLE_SECONDS = 10.0
KEPT_SECONDS = 86_400.0
_COLUMNS = (
    "cpu_percent",
    "temperature_c",
    "memory_available_bytes",
    "agent_rss_bytes",
    "throttled",
    "disk_free_bytes",
    "power_w",
    "uptime_seconds",
)


class DeviceLog:
    """Writes tables `device` and `device_sample` on a connection of its own, in small transactions.

    Watching never holds the rounds up: a write that finds the database busy is left out.
    """

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=1)
        # A sample may be lost in a power cut; the rounds' own connection syncs what must not.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._sampled: dict[str, float] = {}

    def close(self) -> None:
        """Mark every device as gone and close."""
        self._write(
            "UPDATE device SET connected = 0, reason = 'the coordinator stopped' WHERE connected = 1", ()
        )
        self._connection.close()

    def connected(self, hello: pb.Hello, address: str, client: int | None) -> None:
        """A device said hello."""
        board = hello.board
        self._write(
            "INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, '', '')",
            (
                hello.device,
                client,
                address,
                board.model,
                board.machine,
                board.system,
                board.cores,
                min(board.memory_bytes, 2**63 - 1),
                hello.version,
                hello.trainer,
                time.time(),
            ),
        )

    def disconnected(self, device: str, reason: str) -> None:
        """A device's stream is over."""
        self._write(
            "UPDATE device SET connected = 0, last_seen = ?, work = '', reason = ? WHERE id = ?",
            (time.time(), reason, device),
        )

    def member(self, device: str, client: int) -> None:
        """A device takes part in the run as this client."""
        self._write("UPDATE device SET client = ? WHERE id = ?", (client, device))

    def event(self, kind: str, device: str, reason: str) -> None:
        """Append an event of the link to the run's."""
        self._write(
            "INSERT INTO event (time, kind, round, client, data) VALUES (?, ?, NULL, "
            "(SELECT client FROM device WHERE id = ?), json_object('device', ?, 'reason', ?))",
            (time.time(), kind, device, device, reason),
        )

    def heartbeat(self, device: str, telemetry: pb.Telemetry, work: str) -> None:
        """A heartbeat came: keep a sample of it now and then."""
        now = time.time()
        if now - self._sampled.get(device, 0.0) < SAMPLE_SECONDS:
            return
        self._sampled[device] = now
        figures = [getattr(telemetry, name) if telemetry.HasField(name) else None for name in _COLUMNS]
        figures = [min(value, 2**63 - 1) if isinstance(value, int) else value for value in figures]
        self._write(f"INSERT INTO device_sample VALUES ({', '.join('?' * 10)})", (device, now, *figures))
        self._write("DELETE FROM device_sample WHERE device = ? AND time < ?", (device, now - KEPT_SECONDS))
        self._write(
            "UPDATE device SET connected = 1, last_seen = ?, work = ?, reason = '' WHERE id = ?",
            (now, work, device),
        )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with suppress(sqlite3.OperationalError):  # busy, or no room: the rounds matter more
            self._connection.execute(statement, values)
