"""Frames of the link's stream as bytes: chunks of arrays pass without protobuf's copies of them.

A chunk's frame is what protobuf makes of `piece` (the same bytes), put together and taken apart here: its
data is copied once into the frame, and not at all out of it.
"""

from typing import Any

from google.protobuf.message import Message as Proto

from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import LinkStub

CONNECT = "/fedloom.v1.Link/Connect"
_BODY = b"\x22"  # field 4, of FromDevice as of FromCoordinator: a message
_DATA = b"\x0a"  # field 1 of Piece: bytes
_MORE = b"\x10\x01"  # field 2 of Piece: true

Parts = tuple[memoryview, ...]


class Chunk:
    """The body `piece` of a frame: data that lies in one or several places.

    Attributes:
        more: whether the chunk goes on in the next frame.
    """

    def __init__(self, parts: Parts, more: bool = False) -> None:
        self.parts = parts
        self.more = more

    @property
    def size(self) -> int:
        """Bytes of data."""
        return sum(map(len, self.parts))

    def cut(self, size: int) -> "tuple[Chunk, Chunk | None]":
        """A piece of at most `size` bytes, and what is left behind it."""
        if self.size <= size:
            return self, None
        head, rest = [], []
        for part in self.parts:
            head.append(part[:size])
            rest.append(part[size:])
            size -= len(head[-1])
        return Chunk(tuple(head), more=True), Chunk(tuple(rest))


def to_wire(message: "Proto | Chunk") -> bytes:
    """A frame's bytes."""
    if not isinstance(message, Chunk):
        return message.SerializeToString()
    size, more = message.size, _MORE if message.more else b""
    inner = _DATA + _varint(size)
    return b"".join((_BODY, _varint(len(inner) + size + len(more)), inner, *message.parts, more))


def from_device(frame: bytes) -> "pb.FromDevice | Chunk":
    """A device's frame.

    Raises:
        DecodeError: it is none.
    """
    return _chunk(frame) or _plain(pb.FromDevice.FromString(frame))


def from_coordinator(frame: bytes) -> "pb.FromCoordinator | Chunk":
    """A coordinator's frame.

    Raises:
        DecodeError: it is none.
    """
    return _chunk(frame) or _plain(pb.FromCoordinator.FromString(frame))


def kind_of(message: "Proto | Chunk") -> str:
    """Which body a frame has; empty for none or for one of a later version."""
    return "piece" if isinstance(message, Chunk) else message.WhichOneof("body") or ""


class FramedLinkStub(LinkStub):
    """The link's stub, whose stream gives and takes chunks as `Chunk`."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)  # type: ignore[no-untyped-call]
        self.Connect = channel.stream_stream(
            CONNECT, request_serializer=to_wire, response_deserializer=from_coordinator
        )


def _chunk(frame: bytes) -> Chunk | None:
    """The chunk in a frame that has one and nothing else, written as `to_wire` and protobuf write it."""
    if frame[:1] != _BODY:
        return None
    try:
        length, start = _read_varint(frame, 1)
        if start + length != len(frame) or frame[start : start + 1] != _DATA:
            return None
        size, start = _read_varint(frame, start + 1)
    except LinkError:
        return None
    return Chunk((memoryview(frame)[start:],)) if start + size == len(frame) else None


def _plain(message: Any) -> Any:
    """The message, or the chunk that it is where that goes on or was written in an unusual way."""
    if kind_of(message) != "piece":
        return message
    return Chunk((memoryview(message.piece.data),), message.piece.more)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(frame: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(start, min(start + 5, len(frame))):
        value |= (frame[place] & 0x7F) << shift
        if frame[place] < 0x80:
            return value, place + 1
        shift += 7
    raise LinkError("frame: a length that does not end")
