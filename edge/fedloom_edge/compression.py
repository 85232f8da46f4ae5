"""Updates in fewer bytes: lossy codecs with error feedback, and zstandard after them.

What a codec loses in one round is kept by the client and added to its next update (error feedback:
Seide et al., 2014; Karimireddy et al., 2019, "Error feedback fixes SignSGD"), so that nothing is lost for
good. Which codec, and the layout of the model, are known at both ends: a payload is bare numbers, of a
length that follows from both, and a receiver checks it before it takes memory for it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedloom_edge.arrays import Arrays
from fedloom_edge.codecs import Codec, CompressionError, TopK, count_of, parse_codec, shaped, shapes_of
from fedloom_edge.errors import InputError

PAYLOAD = "payload"
"""Name of the one array (uint8) that an encoded update consists of."""
AUTO = "auto"
"""Instead of a codec: each device takes one of `AUTO_CODECS`, and says which in the payload's name."""
AUTO_CODECS = ("float16", "int8", "topk:0.01")
"""What a device may choose beside none, the most exact first."""
_LEVEL = 3  # of zstandard: the default; higher ones gain under 1 % on such numbers
_RESIDUAL, _WARM = "residual/", "warm/"


def require_fixed(compress: str) -> None:
    """Refuse `auto` where nothing measures an uplink.

    Raises:
        InputError: it is `auto`.
    """
    if compress == AUTO:
        raise InputError(
            "--compress auto follows a device's uplink, which only fedloom serve has; name a codec"
        )


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
        sent = self.codec.decode(data, shapes_of(delta))
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
        head = 4 * count_of(shapes_of(exact))
        data = _unpacked(encoded, head + self.codec.size(shapes_of(coded)))
        arrays = shaped(np.frombuffer(data[:head], "<f4").astype(np.float32), shapes_of(exact))
        with np.errstate(all="ignore"):
            for name, delta in self.codec.decode(data[head:], shapes_of(coded)).items():
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


def _part(memory: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in memory.items() if name.startswith(prefix)}
