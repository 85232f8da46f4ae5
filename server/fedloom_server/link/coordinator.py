"""The coordinator's end of the link: gRPC servers and device sessions in a thread of their own."""

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

# With P-256 certificates no cipher of TLS 1.2 in this list can be agreed on, which leaves TLS 1.3: gRPC
# for Python has no option for the lowest version. It must be set before grpc is loaded.
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom_client.frames import from_device, to_wire
from fedloom_client.wire import CHANNEL_OPTIONS
from fedloom_edge.errors import InputError, LinkError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import (
    LinkServicer,
    add_ArtefactsServicer_to_server,
    add_EnrolServicer_to_server,
)
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.depot import Depot
from fedloom_server.link.enrolment import Enrolment, address_of
from fedloom_server.link.greeting import check_hello, check_task
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.jobs import Job, Outcome
from fedloom_server.link.session import Session
from fedloom_server.link.telemetry import DeviceLog

log = logging.getLogger("fedloom.link")

HELLO_SECONDS = 10.0
REVOCATION_SECONDS = 1.0
_UPLOADS = 4
_OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.max_concurrent_streams", 8),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
    ("grpc.max_metadata_size", 8_192),
]


class Coordinator(LinkServicer):
    """Holds a session a device, offers them jobs, and gives what comes of them to whoever waits.

    Its public methods may be called from any thread; the rest runs in its own.
    """

    def __init__(
        self,
        fleet: Fleet,
        inbox: Inbox,
        devices: DeviceLog,
        *,
        run: str,
        task: str,
        task_digest: bytes,
        heartbeat: float = 5.0,
        depot: Depot | None = None,
    ) -> None:
        self.inbox = inbox
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.uploads = asyncio.Semaphore(_UPLOADS)
        self.link_port = 0
        self.enrol_port = 0
        self._fleet = fleet
        self._devices = devices
        self._run = run
        self._task = task
        self._task_digest = task_digest
        self._heartbeat = heartbeat
        self._depot = depot or Depot(None)
        self._depot.authenticate = self._authenticate
        self._sessions: dict[str, Session] = {}
        self._serials: dict[str, int] = {}
        self._gone: dict[str, float] = {}
        self._jobs: dict[str, Job] = {}
        self._clients: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._servers: list[grpc.aio.Server] = []

    # --- from other threads -------------------------------------------------------------------

    def start(self, listen: str, enrol: str) -> Self:
        """Listen for devices at `listen` and for enrolment at `enrol`, each host:port (port 0: any).

        Raises:
            InputError: an address cannot be used.
        """
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(listen, enrol), self._loop).result()
        return self

    def stop(self, reason: str, reconnect_seconds: float = 5.0) -> None:
        """Tell every device when to come back, and end."""
        asyncio.run_coroutine_threadsafe(self._drain(reason, reconnect_seconds), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._devices.close()

    def connected(self) -> dict[str, Session]:
        """Sessions by device; a copy."""
        return dict(self._sessions)

    def enlist(self, devices: Sequence[str]) -> None:
        """These devices are the run's clients, in this order."""
        self._clients = {device: client for client, device in enumerate(devices)}
        for device, client in self._clients.items():
            self._devices.member(device, client)

    def note(self, kind: str, device: str, reason: str) -> None:
        """Keep an event about a device."""
        self._devices.event(kind, device, reason)

    def silent_for(self, device: str) -> float:
        """Seconds since the last sign of a device."""
        session = self._sessions.get(device)
        last = session.last_heard if session else self._gone.get(device, self._began)
        return time.monotonic() - last

    def open(self, jobs: Sequence[Job]) -> None:
        """Offer these jobs, one a device; a device that is away gets its job when it comes back."""
        self._loop.call_soon_threadsafe(self._open, jobs)

    def cancel(self) -> None:
        """No longer wait for the jobs that are open."""
        self._loop.call_soon_threadsafe(self._cancel)

    # --- in the loop's thread -----------------------------------------------------------------

    def job_of(self, device: str) -> Job | None:
        """The work that is open for a device, if any."""
        return self._jobs.get(device)

    def deliver(self, outcome: Outcome) -> bool:
        """Take an outcome once; a second one for the same work is not counted."""
        job = self._jobs.get(outcome.device)
        if job is None or job.work.id != outcome.work:
            return False
        del self._jobs[outcome.device]
        self.outcomes.put(outcome)
        return True

    def heard(self, session: Session, heartbeat: pb.Heartbeat) -> None:
        """Keep a heartbeat's figures."""
        job = self._jobs.get(session.device)
        work = ""
        if heartbeat.work and job is not None and job.work.id == heartbeat.work:
            kind = pb.Kind.Name(job.work.kind).removeprefix("KIND_").lower()
            work = f"round {job.work.round}: {kind}"
            if session.progress.work == heartbeat.work:
                work += f", epoch {session.progress.epoch}"
        self._devices.heartbeat(session.device, heartbeat.telemetry, work)

    async def Connect(self, requests: Any, context: Any) -> None:  # noqa: N802
        """One device's stream."""
        device, serial = await self._authenticate(context)
        address = address_of(context)
        try:
            first = await asyncio.wait_for(context.read(), HELLO_SECONDS)
            hello = check_hello(first, device)
            check_task(hello, self._task, self._task_digest)
        except TimeoutError:
            await self._abort(
                context, device, grpc.StatusCode.DEADLINE_EXCEEDED, f"slow: no hello in {HELLO_SECONDS:g} s"
            )
        except LinkError as error:
            await self._abort(context, device, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        session = Session(self, device, hello, address, self._heartbeat)
        if (old := self._sessions.get(device)) is not None:
            old.close(grpc.StatusCode.ABORTED, "replaced: the device connected again")
        self._sessions[device] = session
        self._serials[device] = serial
        self._fleet.registry.saw(device, address)
        self._devices.connected(hello, address, self._clients.get(device))
        self._devices.event("device-connected", device, "")
        log.info("%s connected from %s (%s, %s)", device, address, hello.board.model, hello.trainer)
        welcome = pb.Welcome(run=self._run, heartbeat_seconds=self._heartbeat)
        session.send(welcome=self._depot.announce(welcome))
        if (job := self._jobs.get(device)) is not None:
            session.offer(job)
        try:
            await session.hold(context)
        finally:
            if self._sessions.get(device) is session:
                del self._sessions[device]
                self._gone[device] = session.last_heard
                reason = session.ended or "the connection broke"
                self._devices.disconnected(device, reason)
                self._devices.event("device-disconnected", device, reason)
                log.info("%s disconnected: %s", device, reason)

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.Certificate:  # noqa: N802
        """A new certificate for the identity that the caller has proven."""
        device, _ = await self._authenticate(context)
        try:
            certificate = self._fleet.registry.admit(device, request.request_pem, self._fleet.authority)
        except LinkError as error:
            await self._abort(context, device, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        log.info("%s renewed its certificate", device)
        return pb.Certificate(device=device, certificate_pem=certificate.public_bytes(Encoding.PEM))

    async def _authenticate(self, context: Any) -> tuple[str, int]:
        """(device, serial) of the caller's certificate, which TLS has verified against the authority."""
        chain = context.auth_context().get("x509_pem_cert") or [b""]
        try:
            certificate = x509.load_pem_x509_certificate(chain[0])
            name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
            serial, device = certificate.serial_number, str(name)
        except (ValueError, IndexError):
            await self._abort(
                context, "?", grpc.StatusCode.UNAUTHENTICATED, "certificate: none, or unreadable"
            )
        if reason := self._fleet.registry.refuses(serial, device):
            await self._abort(context, device, grpc.StatusCode.PERMISSION_DENIED, reason)
        return device, serial

    async def _abort(self, context: Any, device: str, code: grpc.StatusCode, reason: str) -> None:
        log.warning("%s from %s refused: %s", device, address_of(context), reason)
        self._devices.event("device-refused", device, reason)
        await context.abort(code, reason)

    async def _listen(self, listen: str, enrol: str) -> None:
        self._began = time.monotonic()
        pair = self._fleet.coordinator
        mutual = grpc.ssl_server_credentials([pair], self._fleet.authority.pem, require_client_auth=True)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(),))
        add_ArtefactsServicer_to_server(self._depot, server)
        self.link_port = await self._serve(server, "--listen", listen, mutual)
        door = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=16)
        add_EnrolServicer_to_server(Enrolment(self._fleet, self.link_port), door)
        self.enrol_port = await self._serve(door, "--enrol", enrol, grpc.ssl_server_credentials([pair]))
        self._watch = asyncio.create_task(self._watch_revocations())

    def _handlers(self) -> Any:
        """The link's methods, its stream with frames of our own making (see `frames`)."""
        connect: Any = grpc.stream_stream_rpc_method_handler(
            self.Connect, request_deserializer=from_device, response_serializer=to_wire
        )
        renew: Any = grpc.unary_unary_rpc_method_handler(
            self.Renew,
            request_deserializer=pb.RenewRequest.FromString,
            response_serializer=pb.Certificate.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("fedloom.v1.Link", {"Connect": connect, "Renew": renew})

    async def _serve(self, server: grpc.aio.Server, option: str, address: str, credentials: Any) -> int:
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InputError(f"{option} {address}: cannot listen there; choose another HOST:PORT") from error
        await server.start()
        self._servers.append(server)
        return port

    async def _watch_revocations(self) -> None:
        while True:
            await asyncio.sleep(REVOCATION_SECONDS)
            for device, session in list(self._sessions.items()):
                if reason := self._fleet.registry.refuses(self._serials[device], device):
                    session.close(grpc.StatusCode.PERMISSION_DENIED, reason)

    def _open(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._jobs[job.device] = job
            if (session := self._sessions.get(job.device)) is not None:
                session.offer(job)

    def _cancel(self) -> None:
        for device, job in self._jobs.items():
            if (session := self._sessions.get(device)) is not None:
                session.withdraw(job)
        self._jobs = {}

    async def _drain(self, reason: str, reconnect_seconds: float) -> None:
        self._watch.cancel()
        for session in list(self._sessions.values()):
            session.send(drain=pb.Drain(reason=reason, reconnect_seconds=reconnect_seconds))
            session.close(grpc.StatusCode.OK, reason)
        for server in self._servers:
            await server.stop(2.0)
