"""Enrolment: an invitation becomes an identity.

An invitation is `NAME.TOKEN.FINGERPRINT`. The token goes only to a coordinator whose authority's
certificate has that fingerprint: first the server's own certificate is taken as it comes, over that
channel the authority's certificate is asked for and compared, and only then, over a channel that
trusts this authority alone, is the token sent.
"""

import base64
import binascii
import hashlib
import ssl
from dataclasses import dataclass
from typing import Self

import grpc

from fedloom_client.device.identity import Identity, new_request
from fedloom_edge.errors import InputError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import EnrolStub

_SECONDS = 20.0


@dataclass(frozen=True)
class Invitation:
    """What `fedloom fleet invite` prints."""

    device: str
    token: str
    fingerprint: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME.TOKEN.FINGERPRINT`.

        Raises:
            InputError: it is something else, for example cut short.
        """
        parts = text.split(".")
        try:
            fingerprint = base64.urlsafe_b64decode(parts[2] + "=")
        except (IndexError, ValueError, binascii.Error):
            fingerprint = b""
        if len(parts) != 3 or len(fingerprint) != 32 or not all(parts):
            raise InputError(
                "the invitation is not NAME.TOKEN.FINGERPRINT; copy the whole line of fedloom fleet invite"
            )
        return cls(parts[0], parts[1], fingerprint)

    def __str__(self) -> str:
        return f"{self.device}.{self.token}.{base64.urlsafe_b64encode(self.fingerprint).decode().rstrip('=')}"


def join(address: str, invitation: Invitation) -> tuple[Identity, str]:
    """Make a key on this device and have it certified.

    Args:
        address: host:port of the coordinator's enrolment.
        invitation: of this device.

    Returns:
        The identity, and host:port of the link.

    Raises:
        InputError: nothing answers there, its authority is another one, or it refuses the token.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{address!r} is not HOST:PORT; copy the whole line of fedloom fleet invite")
    try:
        server = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_SECONDS).encode()
    except (OSError, ValueError) as error:
        raise InputError(
            f"nothing enrols devices at {address} ({error}); is fedloom serve running there?"
        ) from error
    authority = _authority(address, server)
    body = ssl.PEM_cert_to_DER_cert(authority.decode())
    if hashlib.sha256(body).digest() != invitation.fingerprint:
        raise InputError(
            f"{address} belongs to another fleet than the invitation, or somebody stands between: "
            "nothing was sent; ask for a new invitation"
        )
    key, request = new_request(invitation.device)
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
        try:
            answer = EnrolStub(channel).Join(
                pb.JoinRequest(token=invitation.token, request_pem=request), timeout=_SECONDS
            )
        except grpc.RpcError as error:
            raise InputError(f"{address} refused: {error.details()}; ask for a new invitation") from error
    return Identity.of(key + answer.certificate_pem, authority), f"{host}:{answer.link_port}"


def _authority(address: str, server: bytes) -> bytes:
    """The authority's certificate as `address` tells it; not believed until it is compared."""
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(server)) as channel:
        try:
            answer = EnrolStub(channel).Authority(pb.AuthorityRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            raise InputError(
                f"{address} does not answer as its certificate says ({error.details()}); "
                "give one of the names that fedloom fleet init was told"
            ) from error
    return bytes(answer.certificate_pem)
