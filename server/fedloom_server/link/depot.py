"""Files for devices: the run's artefact, given by its hash, from any byte on."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from fedloom_client.wire import CHUNK
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsServicer

log = logging.getLogger("fedloom.link")

PIECE_SECONDS = 60.0
"""A device that takes no piece for so long gives its place to another."""
_AT_ONCE = 8
Authenticate = Callable[[Any], Awaitable[tuple[str, int]]]


class Depot(ArtefactsServicer):
    """Serves one file, a few devices at a time: memory is a piece a transfer.

    Args:
        path: the artefact; None if there is none.
        reason: why there is none.
    """

    def __init__(self, path: Path | None, reason: str = "") -> None:
        self._path, self._reason = path, reason
        self._file = pb.File()
        if path is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            self._file = pb.File(sha256=digest, bytes=path.stat().st_size)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self.authenticate: Authenticate | None = None

    def announce(self, welcome: pb.Welcome) -> pb.Welcome:
        """The welcome with the artefact, or the reason why there is none."""
        if self._path is None:
            welcome.no_artefact = self._reason[:1024]
        else:
            welcome.artefact.CopyFrom(self._file)
        return welcome

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> None:  # noqa: N802
        """The file's bytes from the offset on."""
        assert self.authenticate is not None
        device, _ = await self.authenticate(context)
        if self._path is None or request.sha256 != self._file.sha256:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"artefact: none is {request.sha256[:8].hex()}")
        if request.offset > self._file.bytes:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "artefact: the offset is beyond its end")
        async with self._places:
            with self._path.open("rb") as file:  # type: ignore[union-attr]
                file.seek(request.offset)
                while data := file.read(CHUNK):
                    try:
                        await asyncio.wait_for(context.write(pb.Piece(data=data)), PIECE_SECONDS)
                    except TimeoutError:
                        reason = f"slow: no piece was taken in {PIECE_SECONDS:.0f} s"
                        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, reason)
        log.info("%s has the artefact", device)
