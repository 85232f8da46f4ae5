"""What an ONNX file holds, looked at before onnxruntime is let at it.

onnxruntime opens external data by paths in the file, allocates what shapes say, and runs loops while it
loads. So a file from outside is walked first: no external data, standard operators only, no loop, no
local function, sizes that add up. Field numbers are those of onnx.proto (IR version 3 and up).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fedloom_edge.artefact.protobuf import fields, signed, varint
from fedloom_edge.errors import DataError

MOST_NODES = 50_000
MOST_BYTES = 1 << 30
_DEEPEST = 8
_REFUSED = {"Loop": "may never end", "Scan": "is a loop"}
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes an element by TensorProto.DataType; others (strings, complex, 8-bit floats) are refused."""


@dataclass(frozen=True)
class Stored:
    """An initialiser: its shape, data type (TensorProto's number) and where its raw bytes are."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass
class Contents:
    """What was found in a file.

    Attributes:
        nodes: how many, those of subgraphs included.
        operators: types that occur.
        opset: version of the standard operators.
        stored: initialisers of the main graph by name.
    """

    nodes: int = 0
    operators: set[str] = field(default_factory=set)
    opset: int = 0
    stored: dict[str, Stored] = field(default_factory=dict)


def inspect(content: bytes | bytearray, name: str) -> Contents:
    """Walk an ONNX file.

    Args:
        content: the whole file.
        name: for messages.

    Raises:
        DataError: it is no complete ONNX file, or holds what a device must not load.
    """
    try:
        return _Walk(content).model()
    except DataError as error:
        raise DataError(f"{name} is not safe to load: {error}; get the artefact again") from error


class _Walk:
    def __init__(self, content: bytes | bytearray) -> None:
        if len(content) > MOST_BYTES:
            raise DataError(f"it has {len(content)} bytes, at most {MOST_BYTES} are allowed")
        self._whole = memoryview(content)
        self._found = Contents()

    def model(self) -> Contents:
        graphs = 0
        for number, value in fields(self._whole):
            match number:
                case 7:
                    graphs += 1
                    self._graph(_bytes(value), depth=0)
                case 8:
                    self._opset(_bytes(value))
                case 20 | 25:
                    raise DataError("it has local functions or training information of its own")
        if graphs != 1 or not self._found.nodes or not self._found.opset:
            raise DataError("it is no ONNX model with one graph")
        return self._found

    def _opset(self, message: memoryview) -> None:
        domain, version = "", 0
        for number, value in fields(message):
            if number == 1:
                domain = _text(value)
            elif number == 2 and isinstance(value, int):
                version = value
        if domain in ("", "ai.onnx"):
            self._found.opset = version

    def _graph(self, message: memoryview, depth: int) -> None:
        if depth > _DEEPEST:
            raise DataError(f"its graphs are nested more than {_DEEPEST} deep")
        for number, value in fields(message):
            match number:
                case 1:
                    self._node(_bytes(value), depth)
                case 5:
                    self._tensor(_bytes(value), keep=depth == 0)
                case 15:
                    raise DataError("it has sparse arrays")

    def _node(self, message: memoryview, depth: int) -> None:
        self._found.nodes += 1
        if self._found.nodes > MOST_NODES:
            raise DataError(f"it has more than {MOST_NODES} nodes")
        kind, domain = "", ""
        for number, value in fields(message):
            match number:
                case 4:
                    kind = _text(value)
                case 5:
                    self._attribute(_bytes(value), depth)
                case 7:
                    domain = _text(value)
        if domain not in ("", "ai.onnx"):
            raise DataError(f"operator {kind} is of the domain {domain!r}; only standard operators are taken")
        if kind in _REFUSED:
            raise DataError(f"operator {kind} {_REFUSED[kind]}")
        self._found.operators.add(kind)

    def _attribute(self, message: memoryview, depth: int) -> None:
        for number, value in fields(message):
            match number:
                case 5 | 10:
                    self._tensor(_bytes(value), keep=False)
                case 6 | 11:
                    self._graph(_bytes(value), depth + 1)
                case 22 | 23:
                    raise DataError("it has sparse arrays")

    def _tensor(self, message: memoryview, *, keep: bool) -> None:
        shape: list[int] = []
        kind, name, raw, elements = 0, "", None, 0
        for number, value in fields(message):
            match number:
                case 1:
                    shape += _integers(value)
                case 2 if isinstance(value, int):
                    kind = value
                case 4 | 5 | 7 | 10 | 11:
                    elements += 1 if isinstance(value, int) else len(value)
                case 6:
                    raise DataError("it has arrays of texts")
                case 8:
                    name = _text(value)
                case 9:
                    raw = _bytes(value)
                case 13 | 14 if value:
                    raise DataError(f"array {name!r} is in another file")
        if kind not in _ITEM_BYTES:
            raise DataError(f"array {name!r} has the data type {kind}, which is not taken")
        if any(size < 0 for size in shape):
            raise DataError(f"array {name!r} has the shape {tuple(shape)}")
        size = math.prod(shape) * _ITEM_BYTES[kind]
        # Numbers outside raw bytes are packed: a byte each at least.
        held = len(raw) == size if raw is not None else math.prod(shape) <= max(elements, 0)
        if not held:
            raise DataError(f"array {name!r} of shape {tuple(shape)} does not hold {size} bytes")
        if keep and raw is not None:
            self._found.stored[name] = Stored(tuple(shape), kind, self._offset(raw), size)

    def _offset(self, part: memoryview) -> int:
        """Where a view of the file begins in it."""
        return _address(part) - _address(self._whole)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0]) if len(view) else 0


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise DataError("a number stands where a message is expected")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_bytes(value)).decode()
    except UnicodeDecodeError:
        raise DataError("a name is no UTF-8") from None


def _integers(value: int | memoryview) -> Iterator[int]:
    if isinstance(value, int):
        yield signed(value)
        return
    position = 0
    while position < len(value):
        number, position = varint(value, position)
        yield signed(number)
