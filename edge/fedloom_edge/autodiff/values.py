"""What is known about each value of a graph: dtype, and which of its axes follow the batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int | None, ...]
"""Sizes by axis; None where the size follows the batch."""


@dataclass(frozen=True)
class Value:
    """A tensor's dtype and shape.

    Attributes:
        dtype: numpy dtype.
        shape: sizes by axis, None where it follows the batch.
        typical: sizes at the batch size that the graph is built for: what costs are judged by.
        constant: the value itself, where neither inputs nor parameters decide it.
    """

    dtype: np.dtype[Any]
    shape: Shape
    typical: tuple[int, ...]
    constant: NDArray[Any] | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether gradients can flow through it."""
        return bool(np.issubdtype(self.dtype, np.floating))


Values = Mapping[str, Value]


@dataclass(frozen=True)
class Node:
    """An operator of the forward graph.

    Attributes:
        op: operator type, as in the ONNX specification.
        name: for messages.
        inputs: names; empty for an optional input that is not given.
        outputs: names.
        attributes: by name, as Python values.
        saved: names of values that the forward pass leaves for the backward pass.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    saved: Mapping[str, str]

    def input(self, index: int) -> str:
        """Name of an input; empty if it is not given."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def __str__(self) -> str:
        return f"{self.op} {self.name or self.outputs[0]!r}"
