"""A device's desk: the work at hand, from the offer through download and training to the result."""

import math
import time
from collections.abc import Callable

from fedloom_client.device.spool import Spool
from fedloom_client.device.telemetry import available_memory, temperature
from fedloom_client.device.workshop import Worker, Workshop
from fedloom_client.frames import Chunk
from fedloom_client.wire import CHUNK, Assembly, check_hashes, sha256
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb

Send = Callable[[pb.FromDevice], None]

# Weights, gradients and two moments, the model as it came, and the result: what training takes at least.
_COPIES = 6
_ROLES = ("arrays", "constants")
_LARGEST = 4 << 30
_SHARE = 0.8
"""Of the time that the coordinator waits, what may go by before training ends; the rest is for sending."""


class Desk:
    """What a device works on. It outlives connections: a cut interrupts a transfer, never the work.

    Every method is called in the event loop's thread; the work itself is done in the workshop's.
    """

    def __init__(
        self,
        worker: Worker,
        spool: Spool,
        max_temperature_c: float,
        *,
        supplied: bool = True,
        sent: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """`sent` is told bytes and seconds of every upload that was not interrupted."""
        self._spool = spool
        self._workshop = Workshop(worker, spool, self._progressed, self._done)
        self._limit = max_temperature_c
        self._send: Send | None = None
        self._call_soon: Callable[..., object] = lambda *_: None
        self._held: dict[str, Assembly] = {}
        self._work: pb.Work | None = None
        self._downloading = False
        self._next: pb.Work | None = None
        self._supplied = supplied
        self._lacks = ""
        self._until = math.inf
        self._last: float | None = None
        self._sent = sent
        self._announced: dict[str, float | None] = {}
        self._asked: dict[str, int] = {}

    @property
    def work(self) -> str:
        """Id of the work at hand; empty when idle."""
        return self._work.id if self._work else ""

    @property
    def idle_since(self) -> float | None:
        """When the last work was done, by the monotonic clock; None in a work or before the first."""
        return None if self._work else self._last

    def attach(self, send: Send | None, call_soon: Callable[..., object]) -> None:
        """Use another connection from now on, or none; `call_soon` runs a function in its thread."""
        self._send = send
        self._call_soon = call_soon
        self._announced = dict.fromkeys(self._announced)  # the rest of an upload says nothing of the whole

    def stop(self) -> None:
        """Give up the work at hand."""
        if self._work:
            self._workshop.cancel(self._work.id)

    def offer(self, work: pb.Work) -> None:
        """Begin a work, go on with it, or send its result if it is there already.

        Raises:
            LinkError: its arrays break the rules.
        """
        if work.id in self._spool:
            self._post_result(work.id)
        elif self._work is None:
            self._begin(work)
        elif self._work.id == work.id:
            if self._downloading:
                self._want_missing()
        elif self._downloading:
            self._begin(work)  # the coordinator offers another only when it has given the first up
        else:
            self._workshop.cancel(self._work.id)
            self._next = work

    def supply(self, lacks: str) -> None:
        """The trainer is equipped, or cannot be and why; until then works with a model wait."""
        self._supplied, self._lacks = True, lacks
        if self._work is None or not self._downloading:
            return
        if lacks:
            self._begin(self._work)  # which refuses it now
        else:
            self._start_when_complete()

    def take(self, chunk: Chunk) -> None:
        """Put a chunk where it belongs; begin to work when nothing is missing."""
        if not self._downloading:
            return  # of a work that was given up
        digest = sha256(*chunk.parts)
        if not any([self._held[role].take(digest, chunk.parts) for role in _ROLES]):  # noqa: C419 (both may)
            raise LinkError("chunk: it was not asked for, or is not what its hash says")
        self._start_when_complete()

    def give(self, wants: pb.Wants) -> list[Callable[[], Chunk]]:
        """Pieces of results that the coordinator asks for, each made when it is sent."""
        results = [self._spool[work] for work in self._spool.works]
        asked = check_hashes(wants.chunks)
        for work in self._announced.keys() & set(self._spool.works):
            result = self._spool[work]
            self._asked[work] = self._asked.get(work, 0) + sum(digest in result for digest in asked)

        def piece(digest: bytes) -> Callable[[], Chunk]:
            source = next((result for result in results if digest in result), None)
            if source is None:
                raise LinkError(f"wants: no result has the chunk {digest.hex()[:16]}")
            return lambda: Chunk(source.chunk(digest))

        return [piece(digest) for digest in asked]

    def acknowledged(self, acknowledgement: pb.Acknowledgement) -> None:
        """Forget a result."""
        work = acknowledgement.work
        began, chunks = self._announced.pop(work, None), self._asked.pop(work, 0)
        if began is not None and acknowledgement.counted and work in self._spool:
            size = min(chunks * CHUNK, _bytes(self._spool[work].result.arrays))
            self._sent(size, time.monotonic() - began)
        self._spool.forget(work)

    def cancelled(self, work: str) -> None:
        """The coordinator no longer waits for a work."""
        self._spool.forget(work)
        if self._next and self._next.id == work:
            self._next = None
        if self._work and self._work.id == work:
            if self._downloading:
                self._work, self._downloading = None, False
            else:
                self._workshop.cancel(work)

    def _begin(self, work: pb.Work) -> None:
        self._work, self._downloading = work, True
        self._until = time.monotonic() + _SHARE * work.seconds if work.seconds > 0 else math.inf
        if reason := self._refuses(work):
            self._work, self._downloading = None, False
            self._post(refusal=pb.Refusal(work=work.id, reason=reason))
            return
        for role in _ROLES:
            assembly = Assembly(getattr(work, role), _LARGEST)
            if role in self._held:
                assembly.fill(self._held[role])
            self._held[role] = assembly
        self._want_missing()
        self._start_when_complete()

    def _refuses(self, work: pb.Work) -> str:
        size = _bytes(work.arrays)
        if self._lacks and work.kind != pb.KIND_DESCRIBE:
            return self._lacks
        if work.kind == pb.KIND_TRAIN and _COPIES * size > available_memory():
            return (
                f"memory: training a model of {size / 1e6:.0f} MB takes about {_COPIES * size / 1e6:.0f} MB, "
                f"and {available_memory() / 1e6:.0f} MB are available"
            )
        degrees = temperature()
        if work.kind == pb.KIND_TRAIN and degrees is not None and degrees > self._limit:
            return f"temperature: the board has {degrees:.0f} °C, more than {self._limit:.0f} °C"
        return ""

    def _want_missing(self) -> None:
        missing = [digest for role in _ROLES for digest in self._held[role].missing]
        if missing:
            self._post(wants=pb.Wants(chunks=dict.fromkeys(missing)))

    def _start_when_complete(self) -> None:
        if self._work is None or not all(self._held[role].complete for role in _ROLES):
            return
        if not self._supplied and self._work.kind != pb.KIND_DESCRIBE:
            return
        self._downloading = False
        arrays, constants = (self._arrays(role) for role in _ROLES)
        self._workshop.start(self._work, arrays, constants, self._until)

    def _arrays(self, role: str) -> Arrays:
        return self._held[role].arrays()

    def _progressed(self, progress: pb.Progress) -> None:
        self._call_soon(lambda: self._post(progress=progress))

    def _done(self, work: str, reason: str) -> None:
        self._call_soon(self._finish, work, reason)

    def _finish(self, work: str, reason: str) -> None:
        self._work, self._last = None, time.monotonic()
        if work in self._spool:
            self._post_result(work)
        elif reason:
            self._post(refusal=pb.Refusal(work=work, reason=reason))
        if self._next is not None:
            upcoming, self._next = self._next, None
            self._begin(upcoming)

    def _post_result(self, work: str) -> None:
        if self._send is not None:
            self._announced.setdefault(work, time.monotonic())
        self._post(result=self._spool[work].result)

    def _post(self, **body: object) -> None:
        if self._send is not None:
            self._send(pb.FromDevice(**body))  # type: ignore[arg-type]


def _bytes(tensors: pb.Tensors) -> int:
    return sum(
        math.prod(tensor.shape) * (int(tensor.dtype.strip("abcdefghijklmnopqrstuvwxyz_") or 8) // 8)
        for tensor in tensors.tensors
    )
