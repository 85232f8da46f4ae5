"""Arrays on the wire: what is sent is described by shapes and hashes, and travels in chunks.

Both ends of the link use this module. Nothing from a peer is believed: every bound of `link.proto` is
checked here, before memory is taken for it.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.frames import Parts
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb

PROTOCOL = 1
CHUNK = 1 << 20
MAX_FRAME = 2 << 20
MAX_EXAMPLES = 10**9
MAX_TENSORS, MAX_AXES, MAX_HASHES = 10_000, 16, 8_192
HASH_BYTES = 32
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_DTYPES = {
    np.dtype(name).name: np.dtype(name).newbyteorder("<")
    for name in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}


def sha256(*parts: bytes | memoryview) -> bytes:
    """SHA-256 of bytes that lie in several places; large ones are hashed without holding other threads up."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


class Content:
    """Arrays that are to be sent: their description, and their chunks by hash.

    Nothing is copied.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._views: list[memoryview] = []
        self._ends: list[int] = []
        tensors: list[pb.Tensor] = []
        total = 0
        for name, array in arrays.items():
            little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
            tensors.append(pb.Tensor(name=name, dtype=array.dtype.name, shape=array.shape))
            self._views.append(little.reshape(-1).view(np.uint8).data)
            total += little.nbytes
            self._ends.append(total)
        self.bytes = total
        chunks = [sha256(*self._parts(start)) for start in range(0, total, CHUNK)]
        self._starts = {digest: i * CHUNK for i, digest in enumerate(chunks)}
        self.tensors = pb.Tensors(tensors=tensors, chunks=chunks)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._starts

    def chunk(self, digest: bytes) -> Parts:
        """Where the chunk with this hash is.

        Raises:
            LinkError: there is none.
        """
        if digest not in self._starts:
            raise LinkError(f"wants: no chunk {digest.hex()[:16]} was offered")
        return self._parts(self._starts[digest])

    def _parts(self, start: int) -> Parts:
        """Up to `CHUNK` bytes of the content from `start` on."""
        parts: list[memoryview] = []
        left = CHUNK
        first = int(np.searchsorted(self._ends, start, side="right"))
        begin = start - (self._ends[first - 1] if first else 0)
        for view in self._views[first:]:
            parts.append(view[begin : begin + left])
            left -= len(parts[-1])
            begin = 0
            if not left:
                break
        return tuple(parts)


def check_tensors(tensors: pb.Tensors, limit: int) -> int:
    """Bytes that the described arrays take, after checking that the description is sane.

    Raises:
        LinkError: a bound of `link.proto` is broken, or the arrays take more than `limit` bytes.
    """
    if len(tensors.tensors) > MAX_TENSORS or len(tensors.chunks) > MAX_HASHES:
        raise LinkError(f"arrays: more than {MAX_TENSORS} arrays or {MAX_HASHES} chunks")
    names = {tensor.name for tensor in tensors.tensors}
    if len(names) != len(tensors.tensors):
        raise LinkError("arrays: a name stands twice")
    total = 0
    for tensor in tensors.tensors:
        if not 0 < len(tensor.name) <= 256 or not tensor.name.isprintable():
            raise LinkError(f"arrays: the name {tensor.name[:40]!r} is not 1 to 256 printable characters")
        if tensor.dtype not in _DTYPES:
            raise LinkError(f"arrays: {tensor.name!r} has the unknown dtype {tensor.dtype[:20]!r}")
        if len(tensor.shape) > MAX_AXES:
            raise LinkError(f"arrays: {tensor.name!r} has more than {MAX_AXES} axes")
        total += math.prod(tensor.shape) * _DTYPES[tensor.dtype].itemsize
        if total > limit:
            raise LinkError(f"arrays: they take more than {limit} bytes at {tensor.name!r}")
    if len(tensors.chunks) != -(-total // CHUNK):
        raise LinkError(f"arrays: {total} bytes are not {len(tensors.chunks)} chunks of {CHUNK}")
    if any(len(digest) != HASH_BYTES for digest in tensors.chunks):
        raise LinkError(f"arrays: a hash is not {HASH_BYTES} bytes")
    return total


class Assembly:
    """Arrays that are being received: which chunks are missing, and the content as it fills up.

    Args:
        tensors: the sender's description; checked here.
        limit: most bytes to accept.
        buffer: where to put the content (uint8, at least as long); default: fresh memory.
    """

    def __init__(self, tensors: pb.Tensors, limit: int, buffer: NDArray[np.uint8] | None = None) -> None:
        self.bytes = check_tensors(tensors, limit)
        self.tensors = tensors
        self.buffer = np.empty(self.bytes, np.uint8) if buffer is None else buffer
        self._places: dict[bytes, list[int]] = {}
        for index, digest in enumerate(tensors.chunks):
            self._places.setdefault(digest, []).append(index)
        self._missing = dict.fromkeys(tensors.chunks)

    @classmethod
    def of_content(cls, tensors: pb.Tensors, content: NDArray[np.uint8], *, check: bool = True) -> "Assembly":
        """A complete one on content that was kept somewhere.

        Raises:
            LinkError: the description is not sane, or the content is not what its hashes say.
        """
        assembly = cls(tensors, len(content), content)
        if assembly.bytes != len(content):
            raise LinkError(f"chunk: {len(content)} bytes were kept where {assembly.bytes} belong")
        assembly._missing = {}
        if check:
            for index, digest in enumerate(tensors.chunks):
                if sha256(content[index * CHUNK : (index + 1) * CHUNK].data) != digest:
                    raise LinkError(f"chunk: number {index} is not what its hash says")
        return assembly

    @property
    def missing(self) -> list[bytes]:
        """Hashes of the chunks that are not here yet, in order."""
        return list(self._missing)

    @property
    def complete(self) -> bool:
        """Whether every chunk is here."""
        return not self._missing

    def fill(self, source: "Assembly | Content") -> None:
        """Take over every chunk that `source` holds."""
        for digest in self.missing:
            if digest in source:
                self._place(digest, source.chunk(digest))

    def take(self, digest: bytes, parts: Parts) -> bool:
        """Take a chunk that arrived and has this hash; whether it was one of the missing ones."""
        if digest not in self._missing:
            return False
        self._place(digest, parts)
        return True

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places and digest not in self._missing

    def chunk(self, digest: bytes) -> Parts:
        """A chunk that is here."""
        start = self._places[digest][0] * CHUNK
        return (self.buffer[start : min(start + CHUNK, self.bytes)].data,)

    def arrays(self) -> Arrays:
        """The arrays, read-only, on the buffer where they are aligned in it."""
        return view_arrays(self.tensors, self.buffer)

    def _place(self, digest: bytes, parts: Parts) -> None:
        size = sum(len(part) for part in parts)
        for index in self._places[digest]:
            start = index * CHUNK
            end = min(start + CHUNK, self.bytes)
            if size != end - start:
                raise LinkError(f"chunk: {size} bytes where {end - start} belong")
            for part in parts:
                self._write(start, part)
                start += len(part)
        del self._missing[digest]

    def _write(self, start: int, data: memoryview) -> None:
        self.buffer[start : start + len(data)] = np.frombuffer(data, np.uint8)


def view_arrays(tensors: pb.Tensors, buffer: NDArray[np.uint8]) -> Arrays:
    """Arrays of a checked description on its content, read-only; copied where they are not aligned."""
    arrays: Arrays = {}
    start = 0
    for tensor in tensors.tensors:
        dtype = _DTYPES[tensor.dtype]
        end = start + math.prod(tensor.shape) * dtype.itemsize
        flat = buffer[start:end].view(dtype)
        array = flat.reshape(tuple(tensor.shape))
        array = array if array.flags.aligned else array.copy()
        array.flags.writeable = False
        arrays[tensor.name] = array
        start = end
    return arrays


def check_text(rule: str, text: str, most: int) -> str:
    """`text` if it has at most `most` printable characters.

    Raises:
        LinkError: it has not.
    """
    if len(text) > most or not (text.isprintable() or not text):
        raise LinkError(f"{rule}: {text[:40]!r} is not at most {most} printable characters")
    return text


def check_hashes(hashes: Sequence[bytes]) -> list[bytes]:
    """The hashes of a `Wants`, if there are not too many and each is one.

    Raises:
        LinkError: they are not.
    """
    if len(hashes) > MAX_HASHES or any(len(digest) != HASH_BYTES for digest in hashes):
        raise LinkError(f"wants: more than {MAX_HASHES} hashes, or one that is not {HASH_BYTES} bytes")
    return list(hashes)


def figures(metrics: Mapping[str, float]) -> list[pb.Figure]:
    """Metrics for a `Result`, their order kept."""
    return [pb.Figure(name=name, value=value) for name, value in metrics.items()]


def check_result(result: pb.Result) -> None:
    """Check every field of a result but its arrays.

    Raises:
        LinkError: a bound of `link.proto` is broken.
    """
    if result.examples > MAX_EXAMPLES:
        raise LinkError(f"result: {result.examples} examples, more than {MAX_EXAMPLES}")
    if len(result.figures) > 256 or len(result.warnings) > 16:
        raise LinkError("result: more than 256 figures or 16 warnings")
    for figure in result.figures:
        check_text("result", figure.name, 64)
    for warning in result.warnings:
        check_text("result", warning, 1024)


def settings(values: Mapping[str, str | int | float]) -> Iterable[pb.Setting]:
    """Training settings for a `Work`."""
    for name, value in values.items():
        match value:
            case str():
                yield pb.Setting(name=name, text=value)
            case int():
                yield pb.Setting(name=name, whole=value)
            case _:
                yield pb.Setting(name=name, number=value)


def read_settings(given: Iterable[pb.Setting]) -> dict[str, str | int | float]:
    """The settings of a `Work`; one without a value is left out."""
    return {
        setting.name: getattr(setting, kind) for setting in given if (kind := setting.WhichOneof("value"))
    }
