"""Updates as int8 with error feedback: a quarter of float32's bytes, and what rounding loses is sent later.

Stochastic rounding in blocks after Alistarh et al., 2017, "QSGD", section 3.1, with the largest magnitude as
each block's norm; error feedback after Seide et al., 2014, "1-Bit Stochastic Gradient Descent", and
Karimireddy et al., 2019, "Error Feedback Fixes SignSGD", algorithm 1. Needs numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import DataError

BLOCK = 256
"""Elements that share a scale: 4 bytes on 256, so an update has 26 % of float32's bytes."""
LARGEST = 127
_SCALES, _INTEGERS = "scale", "int8"


@dataclass(frozen=True)
class Encoded:
    """An update as it is sent, and what was lost on the way.

    Attributes:
        arrays: `int8/NAME` (...) int8 in NAME's shape, and `scale/NAME` (blocks,) float32, for each array.
        residual: float32 by name, in the arrays' shapes: what the next `encode` is given.
    """

    arrays: Arrays
    residual: Arrays


def encode(delta: Mapping[str, NDArray[Any]], residual: Mapping[str, NDArray[Any]], seed: int) -> Encoded:
    """Round an update, with what earlier ones lost added to it.

    q = ⌊(d + r) / s + u⌋ with u uniform in [0, 1) and s = max|d + r| / 127 a block of 256 elements: the
    mean of q s over u is d + r. The new residual is d + r - q s, less than s in magnitude.

    Args:
        delta: float32 arrays by name, all of them finite.
        residual: of the last `encode`; empty at the start.
        seed: of u; equal arguments give equal results, bit for bit.

    Raises:
        DataError: an array is not finite float32, or a residual has another shape.
    """
    draw = np.random.default_rng(seed)
    sent: Arrays = {}
    left: Arrays = {}
    for name, array in delta.items():
        wanted = _wanted(name, array, residual.get(name))
        blocks = _blocks(wanted)  # (blocks, BLOCK)
        scale = np.abs(blocks).max(axis=1, initial=0.0) / np.float32(LARGEST)
        scale[scale < np.finfo(np.float32).tiny] = 0  # what is so small waits in the residual
        exact = np.divide(blocks, scale[:, None], out=np.zeros_like(blocks), where=scale[:, None] > 0)
        rounded = np.floor(exact + draw.random(blocks.shape, np.float32))
        integers = np.clip(rounded, -LARGEST, LARGEST).astype(np.int8).reshape(-1)[: array.size]
        sent[f"{_INTEGERS}/{name}"] = integers.reshape(array.shape)
        sent[f"{_SCALES}/{name}"] = scale
        left[name] = wanted - _decoded(sent[f"{_INTEGERS}/{name}"], scale)
    return Encoded(sent, left)


def decode(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The float32 update of `Encoded.arrays`, by name.

    Raises:
        DataError: an array is missing, superfluous, or of another dtype or shape; a scale is negative or
            not finite. The arrays may come from anywhere.
    """
    names = [key.removeprefix(f"{_INTEGERS}/") for key in arrays if key.startswith(f"{_INTEGERS}/")]
    superfluous = set(arrays) - {f"{part}/{name}" for part in (_INTEGERS, _SCALES) for name in names}
    if superfluous:
        raise DataError(f"an encoded update holds {min(superfluous)!r}, which belongs to no array")
    decoded: Arrays = {}
    for name in names:
        integers, scale = arrays[f"{_INTEGERS}/{name}"], arrays.get(f"{_SCALES}/{name}")
        if integers.dtype != np.int8:
            raise DataError(f"array {name} is encoded as {integers.dtype}; int8 was expected")
        blocks = -(-integers.size // BLOCK)
        if scale is None or scale.dtype != np.float32 or scale.shape != (blocks,):
            found = "missing" if scale is None else f"{scale.dtype} {scale.shape}"
            raise DataError(f"the scale of array {name} is {found}; float32 ({blocks},) was expected")
        if not (np.isfinite(scale).all() and (scale >= 0).all()):
            raise DataError(f"a scale of array {name} is negative or not finite")
        decoded[name] = _decoded(integers, scale)
    return decoded


def _wanted(name: str, array: NDArray[Any], residual: NDArray[Any] | None) -> NDArray[np.float32]:
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise DataError(f"array {name} is {array.dtype} or not finite; finite float32 can be encoded")
    if residual is None:
        return array
    if residual.shape != array.shape or residual.dtype != np.float32:
        raise DataError(
            f"the residual of array {name} is {residual.dtype} {residual.shape}, the array float32 "
            f"{array.shape}; start with none"
        )
    wanted: NDArray[np.float32] = array + residual
    return wanted


def _blocks(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The elements in rows of BLOCK, the last one filled with zeros."""
    flat = array.reshape(-1)
    return np.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)


def _decoded(integers: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    each = np.repeat(scale, BLOCK)[: integers.size].reshape(integers.shape)
    decoded: NDArray[np.float32] = integers * each
    return decoded
