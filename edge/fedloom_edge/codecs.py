"""Lossy codecs: float32 arrays as fewer bytes, of a length that follows from codec and shapes, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError, InputError, unknown

BLOCK = 512
"""Elements that share a scale in int8."""

Vector = NDArray[np.float32]
Generator = np.random.Generator


class Codec(Protocol):
    """Turns differences into bytes and back. A protocol: what is kept of them is what varies."""

    def encode(self, delta: Arrays, warm: Arrays, rng: Generator) -> tuple[bytes, Arrays]:
        """float32 arrays of any shapes as bytes; also what the next encoding starts from (`warm`)."""
        ...

    def decode(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """float32 arrays of these shapes from as many bytes as `size` says."""
        ...

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Bytes that `encode` makes of arrays of these shapes."""
        ...


@dataclass(frozen=True)
class Float16:
    """Half precision: 2 bytes an element; what is beyond 65504 is kept for later."""

    def encode(self, delta: Arrays, warm: Arrays, rng: Generator) -> tuple[bytes, Arrays]:
        """Round to the nearest half."""
        return np.clip(_flat(delta), -65504, 65504).astype("<f2").tobytes(), {}

    def decode(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """Widen."""
        return shaped(np.frombuffer(data, "<f2").astype(np.float32), shapes)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """2 bytes an element."""
        return 2 * count_of(shapes)


@dataclass(frozen=True)
class Int8:
    """Whole numbers from -127 to 127 times a scale for every 512 elements: 1.01 bytes an element.

    Rounding is stochastic, and so without bias (Alistarh et al., 2017, "QSGD").
    """

    def encode(self, delta: Arrays, warm: Arrays, rng: Generator) -> tuple[bytes, Arrays]:
        """Scale each block by its largest magnitude and round up or down at random."""
        flat = _flat(delta)
        blocks = np.zeros((-(-flat.size // BLOCK), BLOCK), np.float32)
        blocks.reshape(-1)[: flat.size] = flat
        scales = np.abs(blocks).max(axis=1, keepdims=True, initial=0) / np.float32(127)  # (N, 1)
        units = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
        whole = np.floor(units + rng.random(units.shape, np.float32)).clip(-127, 127).astype(np.int8)
        return scales.astype("<f4").tobytes() + whole.reshape(-1)[: flat.size].tobytes(), {}

    def decode(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """Multiply by the scales."""
        count = count_of(shapes)
        blocks = -(-count // BLOCK)
        scales = np.frombuffer(data, "<f4", blocks).astype(np.float32)
        whole = np.frombuffer(data, np.int8, count, offset=4 * blocks)
        with np.errstate(all="ignore"):  # a scale that is not finite is the guard's to refuse
            return shaped(whole * np.repeat(scales, BLOCK)[:count], shapes)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """A byte an element and four a block."""
        count = count_of(shapes)
        return count + 4 * -(-count // BLOCK)


@dataclass(frozen=True)
class TopK:
    """The elements of largest magnitude, over the whole model (Aji & Heafield, 2017; Stich et al., 2018).

    Values are sent as halves; what that rounds away is kept like the rest.

    Attributes:
        share: of the elements, in (0, 1].
    """

    share: float

    def encode(self, delta: Arrays, warm: Arrays, rng: Generator) -> tuple[bytes, Arrays]:
        """Gaps between the kept places, then the values there."""
        flat = _flat(delta)
        kept = self._kept(flat.size)
        places = np.sort(np.argpartition(np.abs(flat), flat.size - kept)[flat.size - kept :])
        gaps = np.diff(places, prepend=0).astype("<u4")
        return gaps.tobytes() + np.clip(flat[places], -65504, 65504).astype("<f2").tobytes(), {}

    def decode(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """Zeros but for the kept places.

        Raises:
            CompressionError: a place is out of range or stands twice.
        """
        count = count_of(shapes)
        kept = self._kept(count)
        gaps = np.frombuffer(data, "<u4", kept).astype(np.int64)
        places = np.cumsum(gaps)
        if kept and (places[-1] >= count or (gaps[1:] == 0).any()):
            raise CompressionError("topk: a place is out of range or stands twice")
        flat = np.zeros(count, np.float32)
        flat[places] = np.frombuffer(data, "<f2", kept, offset=4 * kept)
        return shaped(flat, shapes)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """6 bytes a kept element."""
        return 6 * self._kept(count_of(shapes))

    def _kept(self, count: int) -> int:
        return min(max(round(self.share * count), 1), count)


@dataclass(frozen=True)
class LowRank:
    """Each matrix as a product of two thin ones: a power iteration from the round before's.

    PowerSGD (Vogels et al., 2019, algorithm 1), for one client's update. An array (O, ...) counts as a
    matrix (O, rest); one that this does not make smaller is sent as it is.

    Attributes:
        rank: columns of the factors, at least 1.
    """

    rank: int

    def encode(self, delta: Arrays, warm: Arrays, rng: Generator) -> tuple[bytes, Arrays]:
        """Left factor (O, r), orthonormal, and right factor (rest, r) of each matrix."""
        parts: list[Vector] = []
        factors: Arrays = {}
        for name, array in delta.items():
            if not self._thin(array.shape):
                parts.append(array)
                continue
            matrix = array.reshape(array.shape[0], -1)  # (O, rest)
            right = warm.get(name)
            if right is None or not np.abs(right).max(initial=0) > 0:
                right = rng.standard_normal((matrix.shape[1], self.rank), np.float32)
            left = np.linalg.qr(matrix @ right)[0].astype(np.float32)  # (O, r)
            factors[name] = matrix.T @ left  # (rest, r)
            parts += [left, factors[name]]
        return b"".join(part.astype("<f4").tobytes() for part in parts), factors

    def decode(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """Multiply the factors."""
        flat, start = np.frombuffer(data, "<f4").astype(np.float32), 0
        arrays: Arrays = {}
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            if not self._thin(shape):
                arrays[name] = flat[start : start + count].reshape(shape)
                start += count
                continue
            rows, columns = shape[0], count // shape[0]
            middle, end = start + rows * self.rank, start + (rows + columns) * self.rank
            left, right = flat[start:middle].reshape(rows, -1), flat[middle:end].reshape(columns, -1)
            with np.errstate(all="ignore"):
                arrays[name] = (left @ right.T).reshape(shape)
            start = end
        return arrays

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """4 bytes an element of what is sent."""
        total = 0
        for shape in shapes.values():
            count = int(np.prod(shape, dtype=np.int64))
            total += (shape[0] + count // shape[0]) * self.rank if self._thin(shape) else count
        return 4 * total

    def _thin(self, shape: tuple[int, ...]) -> bool:
        count = int(np.prod(shape, dtype=np.int64))
        if len(shape) < 2 or not count or self.rank > min(shape[0], count // shape[0]):
            return False
        return (shape[0] + count // shape[0]) * self.rank < count


class CompressionError(FedloomError):
    """A payload is not what its codec makes. The message is one sentence."""


CODECS = ("float16", "int8", "topk:SHARE", "lowrank:RANK")


def parse_codec(text: str) -> Codec:
    """The codec that `--compress` names.

    Raises:
        InputError: there is none of that name, or its figure is missing or out of range.
    """
    name, _, figure = text.partition(":")
    if name in ("float16", "int8") and not figure:
        return Float16() if name == "float16" else Int8()
    try:
        if name == "topk" and 0 < float(figure) <= 1:
            return TopK(float(figure))
        if name == "lowrank" and 1 <= int(figure) <= 4096:
            return LowRank(int(figure))
    except ValueError:
        pass
    if name in ("topk", "lowrank"):
        example = "topk:0.01, a share above 0 and at most 1" if name == "topk" else "lowrank:4, at least 1"
        raise InputError(f"--compress {text}: write {example}")
    raise unknown("--compress", text, CODECS)


def _flat(arrays: Arrays) -> Vector:
    parts: list[NDArray[Any]] = [
        array.reshape(-1).astype(np.float32, copy=False) for array in arrays.values()
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def shaped(flat: Vector, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Arrays of these shapes from their elements in a row."""
    arrays, start = {}, 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape, dtype=np.int64))
        arrays[name] = flat[start:end].reshape(shape)
        start = end
    return arrays


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """The shape of each array by its name."""
    return {name: array.shape for name, array in arrays.items()}


def count_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Elements that arrays of these shapes have together."""
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
