"""Updates in fewer bytes: lossy codecs with error feedback, and zstandard after them.

What a codec loses in one round is kept by the client and added to its next update (error feedback:
Seide et al., 2014; Karimireddy et al., 2019, "Error feedback fixes SignSGD"), so that nothing is lost for
good. Which codec, and the layout of the model, are known at both ends: a payload is bare numbers, of a
length that follows from both, and a receiver checks it before it takes memory for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError, InputError, unknown

PAYLOAD = "payload"
"""Name of the one array (uint8) that an encoded update consists of."""
AUTO = "auto"
"""Instead of a codec: each device takes one of `AUTO_CODECS`, and says which in the payload's name."""
AUTO_CODECS = ("float16", "int8", "topk:0.01")
"""What a device may choose beside none, the most exact first."""
BLOCK = 512
"""Elements that share a scale in int8."""
_LEVEL = 3  # of zstandard: the default; higher ones gain under 1 % on such numbers
_RESIDUAL, _WARM = "residual/", "warm/"

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
        return _shaped(np.frombuffer(data, "<f2").astype(np.float32), shapes)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """2 bytes an element."""
        return 2 * _count(shapes)


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
        count = _count(shapes)
        blocks = -(-count // BLOCK)
        scales = np.frombuffer(data, "<f4", blocks).astype(np.float32)
        whole = np.frombuffer(data, np.int8, count, offset=4 * blocks)
        with np.errstate(all="ignore"):  # a scale that is not finite is the guard's to refuse
            return _shaped(whole * np.repeat(scales, BLOCK)[:count], shapes)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """A byte an element and four a block."""
        count = _count(shapes)
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
        count = _count(shapes)
        kept = self._kept(count)
        gaps = np.frombuffer(data, "<u4", kept).astype(np.int64)
        places = np.cumsum(gaps)
        if kept and (places[-1] >= count or (gaps[1:] == 0).any()):
            raise CompressionError("topk: a place is out of range or stands twice")
        flat = np.zeros(count, np.float32)
        flat[places] = np.frombuffer(data, "<f2", kept, offset=4 * kept)
        return _shaped(flat, shapes)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """6 bytes a kept element."""
        return 6 * self._kept(_count(shapes))

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


def require_fixed(compress: str) -> None:
    """Refuse `auto` where nothing measures an uplink.

    Raises:
        InputError: it is `auto`.
    """
    if compress == AUTO:
        raise InputError(
            "--compress auto follows a device's uplink, which only fedloom serve has; name a codec"
        )


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


def settle(arrays: Arrays, memory: Arrays) -> Arrays:
    """Arrays to be sent as they are, with what earlier encodings kept in `memory` added at last."""
    return {
        name: array + memory[_RESIDUAL + name] if _RESIDUAL + name in memory else array
        for name, array in arrays.items()
    }


def signed(encoded: Arrays, codec: str) -> Arrays:
    """An encoded update that says which codec it is of."""
    return {f"{PAYLOAD}:{codec}": encoded[PAYLOAD]}


def read_signed(encoded: Arrays) -> tuple[str, Arrays]:
    """(codec, encoded update) of what `signed` made.

    Raises:
        CompressionError: it is none, or of a codec that a device may not choose.
    """
    name, _, codec = next(iter(encoded), "").partition(":")
    if name != PAYLOAD or codec not in AUTO_CODECS or len(encoded) != 1:
        raise CompressionError(f"{sorted(encoded)[:3]} is no update of {', '.join(AUTO_CODECS)}")
    return codec, {PAYLOAD: encoded[f"{PAYLOAD}:{codec}"]}


def codec_of_round(text: str, number: int) -> str:
    """What `--compress` names, for one round: topk begins denser.

    Lin, Han, Mao, Wang & Dally (2018), "Deep gradient compression", section 3.3: a quarter of the
    elements in round 1, and a quarter of that in each one after, down to the share that was asked for.
    """
    codec = parse_codec(text)
    return f"topk:{max(codec.share, 0.25**number)!r}" if isinstance(codec, TopK) else text


@dataclass(frozen=True)
class Compression:
    """A codec for the updates of one model.

    Attributes:
        codec: for what is trained.
        exact: names of arrays that are measured and not trained (batch norm's statistics): sent as they
            are, since a variance that is made up of parts of differences can be negative.
    """

    codec: Codec
    exact: frozenset[str] = field(default_factory=frozenset[str])

    def encode(self, origin: Arrays, arrays: Arrays, memory: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        """What to send of `arrays`, trained from `origin`; equal arguments give equal bytes.

        `memory` is what this gave in the client's round before, or empty.

        Returns:
            The encoded update (one uint8 array), and the new memory.
        """
        exact, coded = self._split(arrays)
        delta = {
            name: np.subtract(array, origin[name], dtype=np.float32) + memory.get(_RESIDUAL + name, 0)
            for name, array in coded.items()
        }
        data, warm = self.codec.encode(delta, _part(memory, _WARM), np.random.default_rng(seed))
        sent = self.codec.decode(data, _shapes(delta))
        kept = {_RESIDUAL + name: array - sent[name] for name, array in delta.items()}
        kept |= {_WARM + name: array for name, array in warm.items()}
        rest = b"".join(array.astype("<f4").tobytes() for array in exact.values())
        packed = _zstandard().ZstdCompressor(level=_LEVEL).compress(rest + data)
        return {PAYLOAD: np.frombuffer(packed, np.uint8).copy()}, kept

    def decode(self, encoded: Arrays, origin: Arrays) -> Arrays:
        """The arrays that an encoded update stands for, in `origin`'s names, order, shapes and dtypes.

        Raises:
            CompressionError: it is none, or not of this model.
        """
        exact, coded = self._split(origin)
        head = 4 * _count(_shapes(exact))
        data = _unpacked(encoded, head + self.codec.size(_shapes(coded)))
        arrays = _shaped(np.frombuffer(data[:head], "<f4").astype(np.float32), _shapes(exact))
        with np.errstate(all="ignore"):
            for name, delta in self.codec.decode(data[head:], _shapes(coded)).items():
                arrays[name] = origin[name] + delta
            return {name: arrays[name].astype(array.dtype) for name, array in origin.items()}

    def _split(self, arrays: Arrays) -> tuple[Arrays, Arrays]:
        exact = {name: array for name, array in arrays.items() if name in self.exact}
        return exact, {name: array for name, array in arrays.items() if name not in self.exact}


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise CompressionError("--compress needs zstandard: pip install 'fedloom[compress]'") from None
    return zstandard


def _unpacked(encoded: Arrays, expected: int) -> bytes:
    packed = encoded.get(PAYLOAD)
    if list(encoded) != [PAYLOAD] or packed is None or packed.dtype != np.uint8 or packed.ndim != 1:
        raise CompressionError(f"an encoded update is one uint8 array {PAYLOAD!r}, not {sorted(encoded)[:5]}")
    content, zstandard = packed.tobytes(), _zstandard()
    try:
        # The frame says its size, and it is compared before memory is taken for it.
        if (size := zstandard.frame_content_size(content)) != expected:
            raise CompressionError(f"the payload holds {size} bytes, expected {expected}")
        unpacked: bytes = zstandard.ZstdDecompressor().decompress(content, max_output_size=expected)
        return unpacked
    except zstandard.ZstdError as error:
        raise CompressionError(f"the payload is damaged ({error})") from error


def _flat(arrays: Arrays) -> Vector:
    parts: list[NDArray[Any]] = [
        array.reshape(-1).astype(np.float32, copy=False) for array in arrays.values()
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _shaped(flat: Vector, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    arrays, start = {}, 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape, dtype=np.int64))
        arrays[name] = flat[start:end].reshape(shape)
        start = end
    return arrays


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())


def _part(memory: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in memory.items() if name.startswith(prefix)}
