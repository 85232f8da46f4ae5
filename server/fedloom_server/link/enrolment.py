"""Enrolment on the wire: a token for a certificate, at a bounded rate."""

import logging
import time
from collections import OrderedDict
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import EnrolServicer
from fedloom_server.fleet.fleet import Fleet

log = logging.getLogger("fedloom.link")

TRIES, WINDOW = 5, 60.0
_EVERYBODY = 30
_MOST_PEERS = 10_000


class Limiter:
    """At most `TRIES` failures a peer and 30 of all peers together in a minute.

    A token has 128 random bits, so that guessing is hopeless at any rate; the limit keeps it out of
    the log and off the processor.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def allows(self, peer: str) -> bool:
        """Whether this peer may try now."""
        horizon = time.monotonic() - WINDOW
        for name in list(self._failures):
            self._failures[name] = [moment for moment in self._failures[name] if moment > horizon]
            if not self._failures[name]:
                del self._failures[name]
        everybody = sum(map(len, self._failures.values()))
        return len(self._failures.get(peer, ())) < TRIES and everybody < _EVERYBODY

    def failed(self, peer: str) -> None:
        """Note a failure."""
        self._failures.setdefault(peer, []).append(time.monotonic())
        while len(self._failures) > _MOST_PEERS:
            self._failures.popitem(last=False)


class Enrolment(EnrolServicer):
    """Answers on the enrolment port, where nobody has a certificate yet."""

    def __init__(self, fleet: Fleet, link_port: int) -> None:
        self._fleet = fleet
        self._link_port = link_port
        self._limiter = Limiter()

    async def Authority(self, request: Any, context: Any) -> pb.AuthorityReply:  # noqa: N802
        """The authority's certificate: public, and compared with the invitation's fingerprint."""
        return pb.AuthorityReply(certificate_pem=self._fleet.authority.pem)

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.Certificate:  # noqa: N802
        """A certificate for an invitation's token."""
        peer = address_of(context)
        if not self._limiter.allows(peer):
            await _refuse(
                context, peer, grpc.StatusCode.RESOURCE_EXHAUSTED, "rate: too many attempts; wait a minute"
            )
        if len(request.token) > 64:
            request.token = ""
        try:
            certificate = self._fleet.registry.join(request.token, request.request_pem, self._fleet.authority)
        except LinkError as error:
            self._limiter.failed(peer)
            await _refuse(context, peer, grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise
        name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        log.info("%s joined the fleet from %s", name, peer)
        pem = certificate.public_bytes(Encoding.PEM)
        return pb.Certificate(device=name, certificate_pem=pem, link_port=self._link_port)


async def _refuse(context: Any, peer: str, code: grpc.StatusCode, reason: str) -> None:
    log.warning("enrolment from %s refused: %s", peer, reason)
    await context.abort(code, reason)


def address_of(context: Any) -> str:
    """The peer's address without its port."""
    return str(context.peer()).rpartition(":")[0]
