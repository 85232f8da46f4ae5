"""Who is in the fleet: `fleet.db` (SQLite) in the fleet's folder, read by every process that uses it."""

import hashlib
import re
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from fedloom_edge.errors import InputError, LinkError
from fedloom_server.fleet.authority import Authority
from fedloom_server.store.database import transaction

DATABASE = "fleet.db"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS invitation (
    token_sha256 TEXT PRIMARY KEY,   -- the token itself is kept nowhere
    device TEXT NOT NULL,
    expires REAL NOT NULL,           -- seconds since the epoch
    used REAL                        -- when, or null
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS certificate (
    serial TEXT PRIMARY KEY,         -- hexadecimal
    device TEXT NOT NULL,
    issued REAL NOT NULL,
    expires REAL NOT NULL,
    revoked REAL                     -- when, or null
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
    device TEXT PRIMARY KEY,
    time REAL NOT NULL,
    address TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Device:
    """A device of the fleet, by its newest certificate."""

    name: str
    issued: float
    expires: float
    revoked: float | None
    seen: float | None
    address: str


class Registry:
    """Invitations and certificates. Each call is one transaction; any number of processes may call."""

    def __init__(self, folder: Path) -> None:
        path = folder / DATABASE
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.executescript(f"PRAGMA journal_mode=WAL; {_SCHEMA}")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def invite(self, device: str, seconds: float) -> str:
        """A fresh single-use token for `device`; an older unused one no longer works.

        Raises:
            InputError: the name is no host name, or a device of that name is in the fleet already.
        """
        if not _NAME.fullmatch(device):
            raise InputError(f"device name {device!r}: use 1 to 63 of a-z, 0-9 and -, for example pi-kitchen")
        token = secrets.token_urlsafe(16)
        with transaction(self._connection):
            if self._valid(device):
                raise InputError(
                    f"{device} is in the fleet already; revoke it first (fedloom fleet revoke {device})"
                )
            self._connection.execute("DELETE FROM invitation WHERE device = ? AND used IS NULL", (device,))
            self._connection.execute(
                "INSERT INTO invitation VALUES (?, ?, ?, NULL)",
                (_digest(token), device, time.time() + seconds),
            )
        return token

    def join(self, token: str, request_pem: bytes, authority: Authority) -> x509.Certificate:
        """Use a token up and issue a certificate to the device it invites.

        Raises:
            LinkError: the token is unknown, used or expired, or the request is malformed.
        """
        with transaction(self._connection):
            row = self._connection.execute(
                "SELECT device, expires, used FROM invitation WHERE token_sha256 = ?", (_digest(token),)
            ).fetchone()
            if row is None:
                raise LinkError("token: unknown")
            device, expires, used = row
            if used is not None:
                raise LinkError(f"token: the invitation of {device} was used before")
            if time.time() > expires:
                raise LinkError(f"token: the invitation of {device} has expired")
            certificate = authority.issue_device(device, request_pem)
            self._connection.execute(
                "UPDATE invitation SET used = ? WHERE token_sha256 = ?", (time.time(), _digest(token))
            )
            self._add(certificate, device)
        return certificate

    def admit(self, device: str, request_pem: bytes, authority: Authority) -> x509.Certificate:
        """Issue a certificate to `device`: one that this machine made itself, or a renewal."""
        certificate = authority.issue_device(device, request_pem)
        with transaction(self._connection):
            self._add(certificate, device)
        return certificate

    def refuses(self, serial: int, device: str) -> str:
        """Why a certificate of the authority may not connect; empty if it may."""
        row = self._connection.execute(
            "SELECT device, revoked FROM certificate WHERE serial = ?", (f"{serial:x}",)
        ).fetchone()
        if row is None or row[0] != device:
            return f"certificate: {device} is not in the fleet's registry"
        return f"certificate: {device} was revoked" if row[1] is not None else ""

    def revoke(self, device: str) -> None:
        """Refuse every certificate and invitation of `device` from now on.

        Raises:
            InputError: there is none.
        """
        now = time.time()
        with transaction(self._connection):
            done = self._connection.execute(
                "UPDATE certificate SET revoked = ? WHERE device = ? AND revoked IS NULL", (now, device)
            ).rowcount
            done += self._connection.execute(
                "UPDATE invitation SET used = ? WHERE device = ? AND used IS NULL", (now, device)
            ).rowcount
        if not done:
            raise InputError(f"{device} has no valid certificate or invitation; see fedloom fleet list")

    def saw(self, device: str, address: str) -> None:
        """Note that a device is connected."""
        self._connection.execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (device, time.time(), address)
        )

    def devices(self) -> list[Device]:
        """Every device that ever had a certificate, by name."""
        rows = self._connection.execute(
            """SELECT c.device, c.issued, c.expires, c.revoked, s.time, coalesce(s.address, '')
            FROM certificate c LEFT JOIN seen s ON s.device = c.device
            WHERE c.issued = (SELECT max(issued) FROM certificate WHERE device = c.device)
            GROUP BY c.device ORDER BY c.device"""
        )
        return [Device(*row) for row in rows]

    def invitations(self) -> list[tuple[str, float]]:
        """Open invitations: device and when it expires."""
        rows = self._connection.execute(
            "SELECT device, expires FROM invitation WHERE used IS NULL AND expires > ? ORDER BY device",
            (time.time(),),
        )
        return [(str(device), float(expires)) for device, expires in rows]

    def _valid(self, device: str) -> bool:
        query = "SELECT 1 FROM certificate WHERE device = ? AND revoked IS NULL AND expires > ?"
        return self._connection.execute(query, (device, time.time())).fetchone() is not None

    def _add(self, certificate: x509.Certificate, device: str) -> None:
        self._connection.execute(
            "INSERT INTO certificate VALUES (?, ?, ?, ?, NULL)",
            (
                f"{certificate.serial_number:x}",
                device,
                time.time(),
                certificate.not_valid_after_utc.timestamp(),
            ),
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
