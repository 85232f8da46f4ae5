"""Just enough of protobuf's wire format to look into an ONNX file that nobody has checked yet.

See "Encoding" in the Protocol Buffers documentation. Nothing is copied: a length-delimited field is a
view of the buffer, so a file of any size is walked in little memory.
"""

from collections.abc import Iterator

from fedloom_edge.errors import DataError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message in order: an int, or the bytes of a length-delimited field.

    Raises:
        DataError: the message is truncated or no protobuf.
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise DataError("a field has the number 0")
        if kind == _VARINT:
            value, position = varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = varint(message, position)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise DataError(f"a field has the unknown wire type {kind}")
        if size > len(message) - position:
            raise DataError(f"a field of {size} bytes goes beyond the end")
        yield number, message[position : position + size]
        position += size


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """The unsigned number that starts at `position`, and the position after it.

    Raises:
        DataError: it goes beyond the end or is too long.
    """
    value = 0
    for index in range(_LONGEST_VARINT):
        if position + index >= len(message):
            raise DataError("a number goes beyond the end")
        byte = message[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + index + 1
    raise DataError("a number has more than ten bytes")


def signed(value: int) -> int:
    """An int64 field's value: protobuf writes it as unsigned."""
    return value - (1 << 64) if value >> 63 else value
