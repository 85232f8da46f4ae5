"""One stream between a device and its coordinator, from hello to the end."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fedloom_client.device.desk import Desk
from fedloom_client.device.systemd import notify
from fedloom_client.device.telemetry import Meter
from fedloom_client.frames import Chunk, FramedLinkStub, kind_of
from fedloom_client.wire import CHUNK
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb

Lazy = Callable[[], Chunk]

SMALLEST = 16 << 10
"""Bytes of the first piece on a connection: in time on an uplink of 1 kB a second."""


class Outbox:
    """What is to be sent: messages at once, pieces one by one behind them as the stream takes them.

    A message waits for what is on its way, so a chunk is cut into pieces that the uplink carries from one
    heartbeat to the next, each sent when the one before has been received; from the first on they grow
    to what was measured, at most twofold. An uplink that carries a whole chunk is given whole ones.

    Attributes:
        beat: seconds between two heartbeats.
    """

    def __init__(self) -> None:
        self.beat = 0.0
        self._messages: deque[pb.FromDevice] = deque()
        self._pieces: deque[Lazy] = deque()
        self._rest: Chunk | None = None
        self._size = SMALLEST
        self._under_way: tuple[int, float] | None = None  # bytes, and when they were sent
        self._something = asyncio.Event()

    def put(self, message: pb.FromDevice) -> None:
        """Send a message before any piece that waits."""
        self._messages.append(message)
        self._something.set()

    def put_pieces(self, pieces: list[Lazy]) -> None:
        """Send pieces when there is no message to send; each is made only then."""
        self._pieces.extend(pieces)
        self._something.set()

    def drop_pieces(self) -> None:
        """Nobody waits for the pieces any more; a chunk that has begun is given up."""
        self._pieces.clear()
        if self._rest is not None:
            self._rest = Chunk(())

    def received(self) -> None:
        """The part of a chunk that was under way has arrived."""
        if self._under_way is not None:
            size, since = self._under_way
            carried = size * self.beat / max(time.monotonic() - since, 1e-6)
            self._size = int(min(max(carried, SMALLEST), 2 * size, CHUNK))
            self._under_way = None
            self._something.set()

    async def get(self) -> pb.FromDevice | Chunk:
        """The next to send."""
        while not self._messages and (self._under_way or not (self._rest or self._pieces)):
            self._something.clear()
            await self._something.wait()
        if self._messages:
            return self._messages.popleft()
        piece, self._rest = (self._rest or self._pieces.popleft()()).cut(self._size)
        if piece.more:
            self._under_way = piece.size, time.monotonic()
        return piece


class Conversation:
    """Reads and writes one stream; what is said is the desk's business."""

    def __init__(self, stub: FramedLinkStub, desk: Desk, hello: pb.Hello, meter: Meter) -> None:
        self._stub = stub
        self._desk = desk
        self._hello = hello
        self._meter = meter
        self._outbox = Outbox()
        self._again: float | None = None

    async def hold(self, stopping: asyncio.Event, welcomed: Callable[[pb.Welcome], None]) -> float | None:
        """Talk until the stream ends or `stopping` is set.

        Returns:
            Seconds after which the coordinator wants the device back, or None if it did not say.

        Raises:
            LinkError: the coordinator broke the rules.
            grpc.aio.AioRpcError: it refused the device, or the connection broke.
        """
        call: Any = self._stub.Connect()
        self._outbox.put(pb.FromDevice(hello=self._hello))
        loop = asyncio.get_running_loop()
        self._desk.attach(self._outbox.put, loop.call_soon_threadsafe)
        jobs = [
            asyncio.create_task(job)
            for job in (self._read(call, welcomed), self._write(call), self._part(call, stopping))
        ]
        try:
            # Whatever ends first (the stream, a broken rule, a stop) ends the others.
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            self._desk.attach(None, loop.call_soon_threadsafe)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            call.cancel()
        return self._again

    async def _read(self, call: Any, welcomed: Callable[[pb.Welcome], None]) -> None:
        beats: asyncio.Task[None] | None = None
        try:
            async for message in call:
                match kind_of(message):
                    case "welcome" if beats is None:
                        welcomed(message.welcome)
                        self._outbox.beat = min(max(message.welcome.heartbeat_seconds, 0.2), 300)
                        beats = asyncio.create_task(self._beat())
                    case "work":
                        self._desk.offer(message.work)
                    case "piece":
                        self._desk.take(message)
                    case "wants":
                        self._outbox.put_pieces(self._desk.give(message.wants))
                    case "acknowledgement":
                        self._desk.acknowledged(message.acknowledgement)
                    case "received":
                        self._outbox.received()
                    case "cancel":
                        self._desk.cancelled(message.cancel.work)
                        self._outbox.drop_pieces()
                    case "drain":
                        self._again = min(max(message.drain.reconnect_seconds, 0.0), 3600.0)
                    case other:
                        raise LinkError(f"protocol: unexpected {other or 'message'}")
        finally:
            if beats is not None:
                beats.cancel()
        # The stream is over; its status says why.
        await _raise_status(call)

    async def _write(self, call: Any) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await call.write(message)
            except asyncio.InvalidStateError:  # the stream has ended: the reader knows why
                await asyncio.sleep(3600)

    async def _beat(self) -> None:
        while True:
            notify("WATCHDOG=1")
            heartbeat = pb.Heartbeat(telemetry=self._meter.read(), work=self._desk.work)
            self._outbox.put(pb.FromDevice(heartbeat=heartbeat))
            await asyncio.sleep(self._outbox.beat)

    async def _part(self, call: Any, stopping: asyncio.Event) -> None:
        await stopping.wait()
        with contextlib.suppress(Exception):  # a last courtesy on a stream that may be gone
            await call.write(pb.FromDevice(goodbye=pb.Goodbye(reason="stopped")))
            await call.done_writing()


async def _raise_status(call: Any) -> None:
    import grpc
    from grpc.aio import AioRpcError, Metadata

    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise AioRpcError(code, Metadata(), Metadata(), details=await call.details())
