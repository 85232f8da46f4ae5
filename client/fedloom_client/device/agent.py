"""The agent: connects out, does the work that it is given, and comes back after every fault."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import grpc
import grpc.aio

from fedloom_client.device.conversation import Conversation
from fedloom_client.device.desk import Desk
from fedloom_client.device.identity import Identity, new_request
from fedloom_client.device.spool import Spool
from fedloom_client.device.supply import Supply
from fedloom_client.device.systemd import notify
from fedloom_client.device.telemetry import Meter, board
from fedloom_client.device.workshop import Worker
from fedloom_client.frames import FramedLinkStub
from fedloom_client.wire import CHANNEL_OPTIONS, PROTOCOL
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsStub, LinkStub

log = logging.getLogger("fedloom.device")

REST_SECONDS = 20.0
"""Without work for so long a worker lets go of memory."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
_OPTIONS = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
# What waiting cannot mend; an operator can, so the agent keeps asking, but rarely.
_REFUSED = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
)


class Agent:
    """One device on the link.

    Args:
        home: the device's folder.
        address: host:port of the coordinator's link.
        identity: of the device.
        worker: does the work.
        hello: what the device says of itself; the agent fills in the rest.
        max_temperature_c: work offered while the board is hotter is refused.
        note: is told a line whenever the agent's state changes.
        supply: readies `worker` for a run; None if it needs nothing.
        sent: is told bytes and seconds of every upload.
    """

    def __init__(
        self,
        home: Path,
        address: str,
        identity: Identity,
        worker: Worker,
        hello: pb.Hello,
        max_temperature_c: float = 85.0,
        note: Callable[[str], None] = log.info,
        supply: Supply | None = None,
        sent: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._home = home
        self._address = address
        self._identity = identity
        self._hello = hello
        self._note = note
        self._spool = Spool(home / "spool")
        self._supply, self._worker = supply, worker
        self._desk = Desk(worker, self._spool, max_temperature_c, supplied=supply is None, sent=sent)
        self._meter = Meter(home)
        self._stopping = asyncio.Event()
        self._failures = 0
        self._supplying: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Stay connected until `stop` is called."""
        notify("READY=1")
        resting = asyncio.create_task(self._rest())
        while not self._stopping.is_set():
            wait = await self._connect()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait)
            notify("WATCHDOG=1")
        resting.cancel()
        await asyncio.to_thread(self._spool.persist_all)

    def stop(self) -> None:
        """Say goodbye and end `run`; a result that waits stays in the spool."""
        self._stopping.set()
        self._desk.stop()

    async def _rest(self) -> None:
        rested: float | None = None
        while True:
            await asyncio.sleep(REST_SECONDS / 4)
            since = self._desk.idle_since
            if since is not None and since != rested and time.monotonic() - since > REST_SECONDS:
                rested = since
                await asyncio.to_thread(self._worker.rest)

    async def _connect(self) -> float:
        """One connection from its beginning to its end; returns how long to wait before the next."""
        credentials = self._identity.credentials
        async with grpc.aio.secure_channel(self._address, credentials, options=_OPTIONS) as channel:
            stub = FramedLinkStub(channel)
            try:
                if self._identity.wants_renewal:
                    await self._renew(stub)
                talk = Conversation(stub, self._desk, self._greeting(), self._meter)
                again = await talk.hold(self._stopping, partial(self._welcomed, ArtefactsStub(channel)))
            except LinkError as error:
                self._note(f"the coordinator broke the rules of the link: {error}")
                return self._backoff()
            except grpc.aio.AioRpcError as error:
                return self._failed(error)
            finally:
                if self._supplying is not None:
                    self._supplying.cancel()
        self._note("the coordinator ended the connection")
        return again if again is not None else self._backoff()

    def _greeting(self) -> pb.Hello:
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        hello.protocol = PROTOCOL
        hello.version = version("fedloom")
        hello.device = self._identity.name
        hello.board.CopyFrom(board())
        hello.finished.extend(self._spool.works)
        return hello

    def _welcomed(self, stub: ArtefactsStub, welcome: pb.Welcome) -> None:
        self._failures = 0
        self._note(f"connected to {self._address}, run {welcome.run}")
        if self._supply is not None:
            self._supplying = asyncio.create_task(self._supplied(self._supply, stub, welcome))

    async def _supplied(self, supply: Supply, stub: ArtefactsStub, welcome: pb.Welcome) -> None:
        lacks = await supply.settle(welcome, stub)
        if lacks:
            self._note(lacks)
        self._desk.supply(lacks)

    def _failed(self, error: grpc.aio.AioRpcError) -> float:
        code, details = error.code(), error.details() or ""
        if code in _REFUSED:
            self._note(f"refused: {details}")
            return LONGEST_WAIT * random.uniform(0.5, 1)
        if self._failures in (0, 5) or self._failures % 60 == 0:  # a night without network is a few lines
            self._note(f"no connection to {self._address}: {details or code.name}; trying again")
        return self._backoff()

    def _backoff(self) -> float:
        """Exponential with full jitter, so that a fleet does not come back all at once."""
        self._failures += 1
        return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures, 10)))

    async def _renew(self, stub: LinkStub) -> None:
        """A new key and certificate; the old ones serve until the new are on disk."""
        key, request = new_request(self._identity.name)
        answer = await stub.Renew(pb.RenewRequest(request_pem=request), timeout=30)
        renewed = Identity.of(key + answer.certificate_pem, self._identity.authority_pem)
        if renewed.name != self._identity.name:
            raise LinkError(f"renewal: the new certificate is for {renewed.name}")
        renewed.save(self._home)
        self._identity = renewed
        self._note("the device's certificate was renewed")
