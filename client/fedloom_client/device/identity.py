"""A device's identity: a key that is made on it and never leaves it, and the fleet's certificate for it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import grpc

from fedloom_edge.errors import InputError
from fedloom_edge.files import write_private

RENEW_AT = 1 / 3
"""A certificate is renewed when less than this share of its life is left."""


@dataclass(frozen=True)
class Identity:
    """What a device proves itself with.

    Attributes:
        name: the device's, as the certificate says.
        key_pem: private key.
        certificate_pem: the fleet's certificate for it.
        authority_pem: the fleet's own certificate, which the coordinator's must be signed by.
        renew_after: when to ask for a new certificate.
    """

    name: str
    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes
    renew_after: datetime

    @classmethod
    def load(cls, home: Path) -> Self:
        """The identity in a device's folder.

        Raises:
            InputError: the device has joined no fleet.
        """
        try:
            bundle = (home / "identity.pem").read_bytes()
            authority = (home / "ca.pem").read_bytes()
            return cls.of(bundle, authority)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{home} holds no identity ({error}); join a fleet first: fedloom device join"
            ) from error

    @classmethod
    def of(cls, bundle: bytes, authority: bytes) -> Self:
        """The identity of a PEM bundle of key and certificate."""
        from cryptography import x509  # 10 MB that an idle agent need not hold: imported where it is used
        from cryptography.x509.oid import NameOID

        marker = b"-----BEGIN CERTIFICATE-----"
        key, found, rest = bundle.partition(marker)
        if not found:
            raise ValueError("identity.pem has no certificate")
        certificate = x509.load_pem_x509_certificate(marker + rest)
        name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return cls(
            str(name), key, marker + rest, authority, certificate.not_valid_after_utc - life * RENEW_AT
        )

    def save(self, home: Path) -> None:
        """Write it in one step a file, readable by its owner alone."""
        write_private(home / "ca.pem", self.authority_pem)
        write_private(home / "identity.pem", self.key_pem + self.certificate_pem)

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel with both ends authenticated."""
        return grpc.ssl_channel_credentials(self.authority_pem, self.key_pem, self.certificate_pem)

    @property
    def wants_renewal(self) -> bool:
        """Whether it is time for a new certificate, by this device's clock."""
        return datetime.now(UTC) > self.renew_after


def new_request(name: str) -> tuple[bytes, bytes]:
    """A fresh P-256 key and a certificate request for it (PEM)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, request.public_bytes(serialization.Encoding.PEM)
