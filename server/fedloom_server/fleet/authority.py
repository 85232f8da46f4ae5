"""The fleet's private certificate authority: X.509 with P-256 keys, and nothing on the network.

A certificate's validity begins a month before it is made: a board without a battery clock starts in
the past, and a peer's certificate that is "not yet valid" there would lock it out.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedloom_edge.errors import InputError, LinkError
from fedloom_edge.files import write_private

BACKDATED = timedelta(days=30)
AUTHORITY_LIFE = timedelta(days=3650)
COORDINATOR_LIFE = timedelta(days=825)
DEVICE_LIFE = timedelta(days=90)
MAX_REQUEST = 8192


@dataclass(frozen=True)
class Authority:
    """Signs certificates for a coordinator and its devices.

    Attributes:
        certificate: its own, self-signed.
        key: its private key, which never leaves the fleet's folder.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls) -> Self:
        """A fresh authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("fedloom fleet")
        builder = (
            _builder(name, name, key.public_key(), AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The authority that `save` wrote.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} holds no readable fleet ({error}); make one with fedloom fleet init"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{folder}/ca.key is no P-256 key; make the fleet again with fedloom fleet init")
        return cls(certificate, key)

    def save(self, folder: Path) -> None:
        """Write `ca.pem` and `ca.key`, readable by their owner alone."""
        write_private(folder / "ca.key", key_pem(self.key))
        write_private(folder / "ca.pem", self.pem)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the authority's certificate, 32 bytes."""
        return self.certificate.fingerprint(hashes.SHA256())

    def issue_coordinator(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """A key and a certificate (PEM) for a server that is reached by these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        certificate = self._sign(
            "coordinator", key.public_key(), COORDINATOR_LIFE, ExtendedKeyUsageOID.SERVER_AUTH, alternatives
        )
        return key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)

    def issue_device(
        self, device: str, request_pem: bytes, life: timedelta = DEVICE_LIFE
    ) -> x509.Certificate:
        """A certificate that says `device`, whatever name the request asks for.

        Raises:
            LinkError: the request is malformed, not signed by its own key, or its key is no P-256.
        """
        return self._sign(device, _requested_key(request_pem), life, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        life: timedelta,
        purpose: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        builder = (
            _builder(_name(name), self.certificate.subject, key, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _requested_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    if len(request_pem) > MAX_REQUEST:
        raise LinkError(f"request: a certificate request of more than {MAX_REQUEST} bytes")
    try:
        request = x509.load_pem_x509_csr(request_pem)
        valid = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError, InvalidSignature) as error:
        raise LinkError(f"request: no certificate request ({error})") from error
    if not valid:
        raise LinkError("request: the certificate request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise LinkError("request: its key is no P-256 key")
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1 or 1)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
