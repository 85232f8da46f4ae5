"""One device's stream, seen from the coordinator."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import grpc

from fedloom_client.frames import Chunk, kind_of
from fedloom_client.wire import (
    CHUNK,
    Assembly,
    Content,
    check_hashes,
    check_result,
    check_text,
    sha256,
)
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.jobs import Job, Outcome

log = logging.getLogger("fedloom.link")

SILENCE_BEATS = 6
"""Heartbeats that a stream may miss before it is closed."""
_FAREWELL_SECONDS = 5.0
_UNREAD = 1000  # answers that may wait for a device to read them: an honest one has a few
UPLOAD_SECONDS = 60.0
"""An upload keeps others waiting for no longer, and one in which nothing comes for so long is given up."""


class Hub(Protocol):
    """What a session needs of the coordinator."""

    inbox: Inbox
    uploads: asyncio.Semaphore

    def job_of(self, device: str) -> Job | None:
        """The work that is open for a device, if any."""
        ...

    def deliver(self, outcome: Outcome) -> bool:
        """Take a result or a refusal; whether somebody waited for it."""
        ...

    def heard(self, session: "Session", heartbeat: pb.Heartbeat) -> None:
        """A heartbeat came."""
        ...


class Session:
    """Reads what a device says and sends it what the coordinator wants."""

    def __init__(self, hub: Hub, device: str, hello: pb.Hello, address: str, heartbeat: float) -> None:
        self.device = device
        self.hello = hello
        self.address = address
        self.last_heard = time.monotonic()
        self.work = ""
        self.progress = pb.Progress()
        self._hub = hub
        self._heartbeat = heartbeat
        self._messages: deque[pb.FromCoordinator] = deque()
        self._pieces: deque[Callable[[], Chunk]] = deque()
        self._something = asyncio.Event()
        self._receiving: tuple[pb.Result, Assembly] | None = None
        self._received = 0  # bytes of pieces
        self._begun = bytearray()  # of a chunk that comes in several pieces
        self._uploading: asyncio.Task[None] | None = None
        self._upload_done = asyncio.Event()
        self._closing: tuple[grpc.StatusCode, str] | None = None

    @property
    def ended(self) -> str:
        """Why this side ended the stream; empty if it did not."""
        return self._closing[1] if self._closing else ""

    def send(self, **body: Any) -> None:
        """Send a message ahead of any piece that waits."""
        self._messages.append(pb.FromCoordinator(**body))
        self._something.set()

    def offer(self, job: Job) -> None:
        """Offer a work, first or again."""
        self._pieces.clear()  # of an offer before, which this one replaces
        self.send(work=job.offer())

    def withdraw(self, job: Job) -> None:
        """No longer wait for a work, nor for the rest of its result."""
        self.send(cancel=pb.Cancel(work=job.work.id))
        if self._uploading is not None:
            self._uploading.cancel()
        self._receiving = None

    def close(self, code: grpc.StatusCode, reason: str) -> None:
        """End the stream when what waits has been sent."""
        self._closing = self._closing or (code, reason)
        self._something.set()

    async def hold(self, context: Any) -> None:
        """Talk until either side ends the stream."""
        # Else gRPC sends it again after a first write that was cut off, fails, and leaves the peer hanging.
        await context.send_initial_metadata(())
        reader = asyncio.create_task(self._read(context))
        writer = asyncio.create_task(self._write(context))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer, self._uploading):
                if task is not None:
                    task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        if self._closing is not None:
            code, reason = self._closing
            log.log(
                logging.INFO if code is grpc.StatusCode.OK else logging.WARNING, "%s: %s", self.device, reason
            )
            if code is not grpc.StatusCode.OK:
                # Behind what a peer does not read the status would wait for ever: then it goes without.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(context.abort(code, reason), _FAREWELL_SECONDS)

    async def _write(self, context: Any) -> None:
        while True:
            while not (self._messages or self._pieces):
                if self._closing is not None:
                    return
                self._something.clear()
                await self._something.wait()
            if self._messages:
                await context.write(self._messages.popleft())
            elif self._closing is not None:
                return
            else:
                await context.write(self._pieces.popleft()())
                self._sent_piece()

    def _sent_piece(self) -> None:
        job = self._hub.job_of(self.device)
        if job is not None and not self._pieces:
            job.fetched = time.monotonic()

    async def _read(self, context: Any) -> None:
        silence = max(SILENCE_BEATS * self._heartbeat, 3.0)
        try:
            while True:
                message = await asyncio.wait_for(context.read(), silence)
                if message is grpc.aio.EOF:
                    return
                self.last_heard = time.monotonic()
                if len(self._messages) > _UNREAD:
                    raise LinkError(f"slow: {len(self._messages)} answers wait to be read")
                if isinstance(message, Chunk):
                    await self._piece(message)
                elif self._take(message):
                    return
        except TimeoutError:
            self.close(grpc.StatusCode.DEADLINE_EXCEEDED, f"silent: no heartbeat for {silence:.0f} s")
        except LinkError as error:
            self.close(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _take(self, message: Any) -> bool:
        """Handle a message; whether the device said goodbye."""
        match kind_of(message):
            case "heartbeat":
                self.work = check_text("heartbeat", message.heartbeat.work, 64)
                self._hub.heard(self, message.heartbeat)
            case "wants":
                self._give(message.wants)
            case "progress":
                self.progress = message.progress
            case "result":
                self._result(message.result)
            case "refusal":
                reason = check_text("refusal", message.refusal.reason.replace("\n", " "), 1024)
                work = check_text("refusal", message.refusal.work, 64)
                self._hub.deliver(Outcome(self.device, work, None, reason or "no reason given"))
            case "goodbye":
                self.close(grpc.StatusCode.OK, "the device stopped")
                return True
            case other:
                raise LinkError(f"protocol: unexpected {other or 'message of a later version'}")
        return False

    def _give(self, wants: pb.Wants) -> None:
        job = self._hub.job_of(self.device)
        if job is None:
            return  # its phase is over
        hashes = check_hashes(wants.chunks)
        for digest in hashes:
            if not any(digest in content for content in job.contents):
                raise LinkError(f"wants: no chunk {digest.hex()[:16]} was offered")
        self._pieces.clear()
        self._pieces.extend(partial(_piece_of, job, digest) for digest in hashes)
        self._something.set()

    def _result(self, result: pb.Result) -> None:
        check_result(result)
        job = self._hub.job_of(self.device)
        if job is None or job.work.id != result.work:
            reason = "its round is over, or it was counted before"
            log.info("%s: a result was not counted: %s", self.device, reason)
            work = check_text("result", result.work, 64)
            self.send(acknowledgement=pb.Acknowledgement(work=work, reason=reason))
            return
        job.returned = job.returned or time.monotonic()
        if self._uploading is not None:
            self._uploading.cancel()
        self._uploading = asyncio.create_task(self._upload(job, result))
        self._uploading.add_done_callback(self._uploaded)

    def _uploaded(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            self.close(grpc.StatusCode.UNAVAILABLE, f"the coordinator's disk: {error.strerror}")
        elif error is not None:
            self.close(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _upload(self, job: Job, result: pb.Result) -> None:
        """Receive a result's arrays, a few devices at a time, and hand it over."""
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._hub.uploads)
            assembly = await asyncio.to_thread(self._hub.inbox.receive, result, job.limit)
            for content in job.contents:  # what did not change need not come back
                _fill(assembly, content)
            if not assembly.complete:
                self._upload_done.clear()
                self._receiving = (result, assembly)
                self.send(wants=pb.Wants(chunks=assembly.missing))
                await self._arrival(turn)
            self._receiving = None
            self._hub.inbox.keep(result)
        outcome = Outcome(self.device, result.work, result, transfers=job.transfers)
        counted = self._hub.deliver(outcome)
        self.send(acknowledgement=pb.Acknowledgement(work=result.work, counted=counted))

    async def _arrival(self, turn: contextlib.AsyncExitStack) -> None:
        """Wait for the last chunk while some of it comes; after a while it is the next one's turn."""
        before = -1
        while self._received != before:
            before = self._received
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._upload_done.wait(), UPLOAD_SECONDS)
                return
            await turn.aclose()
        raise LinkError(f"slow: nothing of the result came in {UPLOAD_SECONDS:g} s")

    async def _piece(self, piece: Chunk) -> None:
        self._received += piece.size
        if piece.more:
            self.send(received=pb.Received())
        chunk = self._whole(piece)
        if chunk is None or self._receiving is None:
            return  # there is more to come, or it is of an upload that was given up
        _, assembly = self._receiving
        # In a thread: hashing and writing hold nobody else up.
        if not await asyncio.to_thread(_place, assembly, chunk):
            raise LinkError("chunk: it was not asked for, or is not what its hash says")
        if assembly.complete:
            self._upload_done.set()

    def _whole(self, piece: Chunk) -> Chunk | None:
        """The chunk that a piece is or completes, if it does."""
        if not (piece.more or self._begun):
            return piece
        self._begun += b"".join(piece.parts)
        if len(self._begun) > CHUNK:
            raise LinkError(f"chunk: its pieces are more than {CHUNK} bytes")
        if piece.more:
            return None
        whole, self._begun = Chunk((memoryview(self._begun),)), bytearray()
        return whole if piece.size else None  # an empty piece gives up what was begun


def _place(assembly: Assembly, chunk: Chunk) -> bool:
    return assembly.take(sha256(*chunk.parts), chunk.parts)


def _piece_of(job: Job, digest: bytes) -> Chunk:
    return Chunk(job.chunk(digest))


def _fill(assembly: Assembly, content: Content) -> None:
    if any(digest in content for digest in assembly.missing):
        assembly.fill(content)
