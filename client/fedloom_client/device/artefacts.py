"""The artefact that a device trains with: fetched by its hash, kept, and gone on with after a cut."""

import hashlib
import os
from pathlib import Path
from shutil import disk_usage
from typing import Any

from fedloom_client.wire import HASH_BYTES
from fedloom_edge.errors import LinkError, RunError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsStub

MOST_BYTES = 1 << 30
_SPARE = 1 << 20
_SUFFIX = ".fedloom"


class Artefacts:
    """A device's folder of artefacts, each under its SHA-256; the newest alone is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get(self, stub: ArtefactsStub, file: pb.File) -> Path:
        """The artefact's path, fetched if it is not here.

        Raises:
            LinkError: what came is not what was announced.
            RunError: the disk has no room.
            grpc.aio.AioRpcError: the transfer was cut; the next one goes on where it stopped.
        """
        if len(file.sha256) != HASH_BYTES or not 0 < file.bytes <= MOST_BYTES:
            raise LinkError(f"artefact: {file.bytes} bytes, or a hash that is not {HASH_BYTES} bytes")
        path = self._folder / f"{file.sha256.hex()}{_SUFFIX}"
        if path.is_file() and _sha256(path) == file.sha256:
            return path
        try:
            return await self._fetch(stub, file, path)
        except OSError as error:
            raise RunError(f"artefact: {self._folder}: {error.strerror}; make room on the device") from error

    async def _fetch(self, stub: ArtefactsStub, file: pb.File, path: Path) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(".part")
        held = part.stat().st_size if part.exists() else 0
        if held > file.bytes:
            part.unlink()
            held = 0
        if (free := disk_usage(self._folder).free) < file.bytes - held + _SPARE:
            raise RunError(
                f"artefact: it takes {file.bytes / 1e6:.1f} MB, the device's disk has {free / 1e6:.1f} MB; "
                "make room"
            )
        request = pb.FetchRequest(sha256=file.sha256, offset=held)
        with part.open("ab") as target:
            call: Any = stub.Fetch(request)
            async for piece in call:
                held += len(piece.data)
                if held > file.bytes:
                    call.cancel()
                    break
                target.write(piece.data)
            target.flush()
            os.fsync(target.fileno())
        if held < file.bytes:
            raise LinkError(f"artefact: it ended after {held} of {file.bytes} bytes")
        if held > file.bytes or _sha256(part) != file.sha256:
            part.unlink()
            raise LinkError("artefact: it is not what its hash says")
        part.replace(path)
        for other in self._folder.iterdir():
            if other != path:
                other.unlink()
        return path


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
