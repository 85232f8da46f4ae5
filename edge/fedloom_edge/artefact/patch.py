"""Puts trained arrays into an ONNX file, byte for byte in place, on a device without onnx.

An array keeps its shape, so its bytes keep their length: nothing else in the file moves.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.artefact.graph import Contents, Stored, inspect
from fedloom_edge.errors import RunError

_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
}


def patch(content: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """`content`, an ONNX file, with `arrays` in the place of its initialisers of these names.

    Args:
        content: the file.
        arrays: in the stored shapes; the dtype is the stored one's.

    Raises:
        RunError: the file has no such initialiser, or one of another shape or dtype.
    """
    found = inspect(content, "the model")
    changed = bytearray(content)
    for name, array in arrays.items():
        place = found.stored.get(name)
        if place is None or place.shape != array.shape or _TYPES.get(place.kind) != array.dtype:
            raise RunError(
                f"the model cannot take the array {name} {array.dtype} {array.shape}: export it again"
            )
        changed[place.start : place.start + place.size] = array.astype(_TYPES[place.kind]).tobytes()
    return bytes(changed)


def stored_array(content: bytes, found: Contents, name: str) -> NDArray[Any]:
    """The initialiser `name` of an inspected file.

    Raises:
        RunError: there is none, or it has another dtype than float32, int32, int64 and the 8-bit ones.
    """
    place: Stored | None = found.stored.get(name)
    if place is None or place.kind not in _TYPES:
        raise RunError(f"the model has no array {name} that can be read: export it again")
    part = content[place.start : place.start + place.size]
    return np.frombuffer(part, _TYPES[place.kind]).reshape(place.shape)
