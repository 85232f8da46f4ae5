"""A fleet's folder: the authority, the coordinator's certificate, and the registry of devices."""

import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509

from fedloom_edge.errors import InputError
from fedloom_edge.files import write_private
from fedloom_server.fleet.authority import Authority
from fedloom_server.fleet.registry import Registry

REFRESH_BEFORE = timedelta(days=90)


class Fleet:
    """Everything that a coordinator needs to know its devices and to be known by them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.load(folder)
        self.registry = Registry(folder)

    @classmethod
    def create(cls, folder: Path, names: Sequence[str]) -> Self:
        """Make a fleet whose coordinator is reached by `names` (host names, addresses).

        Raises:
            InputError: the folder holds a fleet already, or cannot be written.
        """
        if (folder / "ca.key").exists():
            raise InputError(f"{folder} holds a fleet already; use it, or choose another --fleet DIR")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            authority = Authority.create()
            authority.save(folder)
        except OSError as error:
            raise InputError(
                f"--fleet {folder}: {error.strerror}; choose a folder that can be written"
            ) from error
        fleet = cls(folder)
        fleet.rename(names)
        return fleet

    def rename(self, names: Sequence[str]) -> None:
        """Give the coordinator a fresh certificate for `names`."""
        key, certificate = self.authority.issue_coordinator(names)
        write_private(self.folder / "coordinator.key", key)
        write_private(self.folder / "coordinator.pem", certificate)

    def refresh(self) -> None:
        """Renew the coordinator's certificate if it ends soon; devices need not know."""
        certificate = x509.load_pem_x509_certificate(self.coordinator[1])
        if certificate.not_valid_after_utc - datetime.now(UTC) < REFRESH_BEFORE:
            self.rename(self.names)

    @property
    def names(self) -> list[str]:
        """The names in the coordinator's certificate; the one that other machines use first."""
        certificate = x509.load_pem_x509_certificate(self.coordinator[1])
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [str(entry.value) for entry in found]
        return sorted(names, key=lambda name: name in ("localhost", "127.0.0.1"))

    @property
    def coordinator(self) -> tuple[bytes, bytes]:
        """The coordinator's key and certificate (PEM)."""
        return (self.folder / "coordinator.key").read_bytes(), (self.folder / "coordinator.pem").read_bytes()

    def close(self) -> None:
        """Close the registry."""
        self.registry.close()


def own_names() -> list[str]:
    """Names by which this machine is reached on its own network: host name, mDNS name, addresses."""
    host = socket.gethostname().lower()
    names = ["localhost", "127.0.0.1", host, f"{host.partition('.')[0]}.local"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: this asks which address would be used
            names.append(probe.getsockname()[0])
        except OSError:
            pass  # no network: the names must do
    return list(dict.fromkeys(names))
