"""Arrays: named numpy arrays in a fixed order, the thing that travels and is aggregated."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedloom_edge.errors import RunError
from fedloom_edge.files import write_atomic

Arrays = dict[str, NDArray[Any]]


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of the arrays in order: name, dtype, shape and little-endian bytes of each."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        digest.update(f"{name}\0{little.dtype.str}\0{array.shape}\0".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, synced: bool = True) -> None:
    """Write arrays to a safetensors file, atomically. The order is kept in the file's metadata.

    Without `synced` it survives a kill, and a power cut once `files.sync_files` was called.
    """
    # Not ascontiguousarray, which makes a scalar an array of one element.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomic(path, save(contiguous, metadata={"order": "\n".join(contiguous)}), synced=synced)


def load_arrays(path: Path) -> Arrays:
    """Read arrays that `save_arrays` wrote, in their order.

    Raises:
        RunError: the file is missing, truncated or no safetensors file.
    """
    try:
        content = path.read_bytes()
        arrays = load(content)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read as safetensors ({error}); use another checkpoint") from error
    return {name: arrays[name] for name in _order(content, arrays)}


def _order(content: bytes, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    header_size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__", {})
    order = str(metadata.get("order", "")).split("\n")
    return order if set(order) == set(arrays) else list(arrays)
