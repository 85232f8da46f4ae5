"""Results that wait to be acknowledged, on disk and fsynced: they survive a kill and a power cut.

What is being downloaded is not kept on disk: a flash card wears out by writing, and the model of an
interrupted work can be had again, while the hours of training in a result cannot.
"""

import logging
import mmap
import threading
from pathlib import Path
from shutil import disk_usage

import numpy as np
from google.protobuf.message import DecodeError

from fedloom_client.frames import Parts
from fedloom_client.wire import Assembly, Content
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import LinkError
from fedloom_edge.files import replacing
from fedloom_protos.v1 import link_pb2 as pb

log = logging.getLogger("fedloom.device")

PATIENCE = 1.0
"""Seconds that a result waits for its acknowledgement before it is written."""
_HEAD = 8
_SPARE = 1 << 20
_MOST = 64


class StoredResult:
    """A result and where the chunks of its arrays are: in a file, or in memory if the disk is full."""

    def __init__(self, result: pb.Result, source: Content | Assembly) -> None:
        self.result = result
        self.forgotten = threading.Event()
        self._source = source

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._source

    def chunk(self, digest: bytes) -> Parts:
        """Where the chunk with this hash is.

        Raises:
            LinkError: the result has no such chunk.
        """
        if digest not in self._source:
            raise LinkError(f"wants: the result has no chunk {digest.hex()[:16]}")
        return self._source.chunk(digest)


class Spool:
    """Unacknowledged results by the id of their work."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.glob(".*"):
            leftover.unlink()
        self._folder = folder
        self._results: dict[str, StoredResult] = {}
        for path in sorted(folder.glob("*.result"), key=lambda path: path.stat().st_mtime)[-_MOST:]:
            stored = _read(path)
            if stored is None:  # torn or rotten: the work will be offered again
                path.unlink()
            else:
                self._results[stored.result.work] = stored

    def __contains__(self, work: str) -> bool:
        return work in self._results

    def __getitem__(self, work: str) -> StoredResult:
        return self._results[work]

    @property
    def works(self) -> list[str]:
        """Ids of the works whose results wait."""
        return list(self._results)

    def put(self, result: pb.Result, arrays: Arrays) -> None:
        """Keep a result in memory, to be sent at once; `persist` puts it on disk meanwhile."""
        content = Content(arrays)
        result.arrays.CopyFrom(content.tensors)
        if (free := disk_usage(self._folder).free) < content.bytes + _SPARE:
            result.warnings.append(
                f"the device's disk is full ({free / 1e6:.0f} MB left): the result is kept in memory only"
            )
        self._results[result.work] = StoredResult(result, content)

    def persist(self, work: str) -> None:
        """Put a result on disk, fsynced, and let go of its memory; not if it is acknowledged within a second.

        A kill before this is done costs the work, which is offered again, and no more.
        """
        stored = self._results.get(work)
        # A flash card is not worn, nor the sending slowed down, for what is gone when it is written.
        if stored is not None and not stored.forgotten.wait(PATIENCE):
            self._write(work, stored)

    def persist_all(self) -> None:
        """Put every result on disk that is not there yet."""
        for work, stored in list(self._results.items()):
            if not (self._folder / f"{work}.result").exists():
                self._write(work, stored)

    def _write(self, work: str, stored: StoredResult) -> None:
        path = self._folder / f"{work}.result"
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                head = stored.result.SerializeToString()
                file.write(len(head).to_bytes(_HEAD, "little"))
                file.write(head)
                for digest in stored.result.arrays.chunks:
                    file.writelines(stored.chunk(digest))
            kept = _read(path, trusted=True)
        except OSError as error:
            if work in self._results:  # else it was acknowledged and removed meanwhile
                log.warning("a result could not be kept on disk: %s", error.strerror)
            return
        if work in self._results and kept is not None:
            self._results[work] = kept
        if work not in self._results:  # acknowledged meanwhile
            path.unlink(missing_ok=True)

    def forget(self, work: str) -> None:
        """The coordinator has the result, or wants none."""
        if (stored := self._results.pop(work, None)) is not None:
            stored.forgotten.set()
        (self._folder / f"{work}.result").unlink(missing_ok=True)


def _read(path: Path, *, trusted: bool = False) -> StoredResult | None:
    """The result in a file; None if its content is not what its hashes say."""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < _HEAD:
            return None
        view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    end = _HEAD + int.from_bytes(view[:_HEAD], "little")
    result = pb.Result()
    try:
        result.ParseFromString(bytes(view[_HEAD:end]))
        buffer = np.frombuffer(view[end:], np.uint8)
        kept = Assembly.of_content(result.arrays, buffer, check=not trusted)
    except (DecodeError, LinkError, ValueError):
        return None
    return StoredResult(result, kept) if result.work == path.stem else None
