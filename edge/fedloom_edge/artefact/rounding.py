"""How trained float arrays become the integers of an int8 model; in numpy, as the train step rounds.

Jacob et al., 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference": weights symmetric per channel, s = max|w| / 127, q = round(w / s); biases int32 in units of
s_input s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.artefact.graph import inspect
from fedloom_edge.artefact.patch import patch, stored_array

LARGEST = 127
SMALLEST_SCALE = 1e-8
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Rounded:
    """Where a trained array is in an int8 model.

    Attributes:
        integers: initialiser of its int8 (weight) or int32 (bias) values.
        scale: initialiser of the scale of each channel.
        axis: of a weight's channels.
        weight: for a bias, the weight in whose units it is; else empty.
    """

    integers: str
    scale: str
    axis: int
    weight: str = ""


def weight_scale(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Scale of each channel (C,) of a weight."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    largest = np.abs(weight).max(axis=others)
    scale: NDArray[np.float32] = np.maximum(largest / np.float32(LARGEST), np.float32(SMALLEST_SCALE))
    return scale


def round_into(content: bytes, arrays: Arrays, places: Mapping[str, Rounded]) -> bytes:
    """An int8 model with trained arrays in it.

    Args:
        content: the int8 model.
        arrays: float32, by name.
        places: of each array.

    Raises:
        RunError: a place does not fit the model.
    """
    found = inspect(content, "the int8 model")
    changed: dict[str, NDArray[Any]] = {}
    for name, place in places.items():
        if place.weight:
            continue
        scale = weight_scale(arrays[name], place.axis)
        shape = [1] * arrays[name].ndim
        shape[place.axis] = -1
        integers = np.clip(np.rint(arrays[name] / scale.reshape(shape)), -LARGEST - 1, LARGEST)
        changed |= {place.scale: scale, place.integers: integers.astype(np.int8)}
    for name, place in places.items():
        if not place.weight:
            continue
        weight = places[place.weight]
        # The bias's old scale is that of the input times the weight's old one.
        inputs = stored_array(content, found, place.scale) / stored_array(content, found, weight.scale)
        scale = (inputs * changed[weight.scale]).astype(np.float32)
        integers = np.clip(np.rint(arrays[name].astype(np.float64) / scale), -_INT32, _INT32)
        changed |= {place.scale: scale, place.integers: integers.astype(np.int32)}
    return patch(content, changed)
