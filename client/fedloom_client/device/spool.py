"""Results that wait to be acknowledged, on disk and fsynced: they survive a kill and a power cut.

What is being downloaded is not kept on disk: a flash card wears out by writing, and the model of an
interrupted work can be had again, while the hours of training in a result cannot.
"""

import mmap
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from fedloom_client.wire import Assembly, Content
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import LinkError
from fedloom_edge.files import replacing
from fedloom_protos.v1 import link_pb2 as pb

_HEAD = 8
_MOST = 64


class StoredResult:
    """A result and where the chunks of its arrays are: in a file, or in memory if the disk is full."""

    def __init__(self, result: pb.Result, source: Content | Assembly) -> None:
        self.result = result
        self._source = source

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._source

    def chunk(self, digest: bytes) -> bytes:
        """The chunk with this hash.

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

    def put(self, result: pb.Result, arrays: Arrays) -> StoredResult:
        """Keep a result. When the disk does not take it, it is kept in memory and says so in a warning."""
        content = Content(arrays)
        result.arrays.CopyFrom(content.tensors)
        path = self._folder / f"{result.work}.result"
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                head = result.SerializeToString()
                file.write(len(head).to_bytes(_HEAD, "little"))
                file.write(head)
                for digest in content.tensors.chunks:
                    file.write(content.chunk(digest))
            stored = _read(path, trusted=True) or StoredResult(result, content)
        except OSError as error:
            result.warnings.append(f"the result could not be kept on the device's disk: {error.strerror}")
            stored = StoredResult(result, content)
        self._results[result.work] = stored
        return stored

    def forget(self, work: str) -> None:
        """The coordinator has the result, or wants none."""
        self._results.pop(work, None)
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
