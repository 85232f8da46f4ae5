"""Writes the nodes of a new graph: names them, keeps constants once, knows the values' shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from fedloom_edge.autodiff.values import Value


class Builder:
    """The graph being written.

    Attributes:
        nodes: in an order in which they can run.
        values: what is known of the values with a known shape: all of the forward graph's.
        constants: initialisers by name.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, Value] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, like: str = "", **attributes: Any) -> str:
        """Write a node with one output and return the output's name.

        Args:
            kind: operator type.
            inputs: names; empty for an optional input that is not given.
            like: a value of the same dtype and shape, where the output's shape is wanted later.
            attributes: of the node.
        """
        return self.ops(kind, *inputs, outputs=1, like=like, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, like: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Write a node with several outputs and return their names."""
        names = tuple(self.fresh(kind) for _ in range(outputs))
        self.write(kind, inputs, names, attributes)
        if like:
            for name in names:
                self.values[name] = self.values[like]
        return names

    def write(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Any]
    ) -> None:
        """Write a node whose outputs have names already."""
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, name=f"{kind}_{len(self.nodes)}", **attributes)
        )

    def fresh(self, hint: str) -> str:
        """A name that no value has yet."""
        self._count += 1
        return f"~{hint}_{self._count}"

    def constant(self, value: ArrayLike, dtype: Any = np.float32) -> str:
        """Name of an initialiser that holds `value`; equal ones are kept once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if (name := self._by_content.get(key)) is None:
            name = self._by_content[key] = self.fresh("constant")
            self.constants[name] = array
            self.values[name] = Value(array.dtype, array.shape, array.shape, array)
        return name

    def ints(self, *numbers: int) -> str:
        """Name of an int64 vector: axes, a shape, pads."""
        return self.constant(numbers, np.int64)

    def scalar(self, number: float, like: str) -> str:
        """Name of a 0-d constant with the dtype of the value `like`."""
        return self.constant(number, self.values[like].dtype)

    def shape_of(self, name: str) -> str:
        """Name of an int64 vector with the shape of a forward value, for Reshape and Expand."""
        shape = self.values[name].shape
        if None not in shape:
            return self.ints(*(size or 0 for size in shape))
        return self.op("Shape", name)

    def reshape_like(self, name: str, like: str) -> str:
        """`name` with the shape of the forward value `like`."""
        shape = self.values[like].shape
        # One unknown size can be left to Reshape, unless a zero beside it makes it ambiguous.
        if shape.count(None) <= 1 and 0 not in shape:
            target = self.ints(*(-1 if size is None else size for size in shape))
        else:
            target = self.shape_of(like)
        return self.op("Reshape", name, target, like=like)

    def sum(self, terms: Sequence[str], like: str = "") -> str:
        """The sum of one or more values of the same shape."""
        if len(terms) == 1:
            return terms[0]
        return self.op("Add" if len(terms) == 2 else "Sum", *terms, like=like)

    def reduce(self, name: str, axes: Sequence[int], *, keep: bool, kind: str = "ReduceSum") -> str:
        """`name` summed (or another reduction) over `axes`; over none it is `name` itself."""
        return self.op(kind, name, self.ints(*axes), keepdims=int(keep)) if axes else name

    def transpose(self, name: str, *order: int) -> str:
        """`name` with its axes in another order."""
        return self.op("Transpose", name, perm=list(order))

    def slice(self, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """Part of `name` along one axis."""
        return self.op("Slice", name, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def pad(self, name: str, rank: int, margins: Mapping[int, tuple[int, int]]) -> str:
        """`name` with zeros before and after on some axes (a negative number cuts off).

        Pads for every axis, without the input `axes`: onnxruntime 1.32 moves a Transpose across a Pad as
        if that were not there, and fails.
        """
        if not any(number for pair in margins.values() for number in pair):
            return name
        both = [margins.get(axis, (0, 0)) for axis in range(rank)]
        return self.op("Pad", name, self.ints(*(b for b, _ in both), *(a for _, a in both)))

    def unbroadcast(self, gradient: str, source: str, result: str) -> str:
        """Sum `gradient`, which has the shape of `result`, down to the shape of `source`.

        Both are forward values; `source` was broadcast to `result` (ONNX's multidirectional rule).
        """
        small, large = self.values[source], self.values[result]
        if small.typical == large.typical:
            return gradient
        extra = large.rank - small.rank
        leading = list(range(extra))
        stretched = [
            axis + extra
            for axis, size in enumerate(small.typical)
            if size == 1 and large.typical[axis + extra] != 1
        ]
        if not extra:
            return self.reduce(gradient, stretched, keep=True)
        summed = self.reduce(gradient, leading + stretched, keep=False)
        return self.reshape_like(summed, source) if stretched else summed

    def initialisers(self) -> list[onnx.TensorProto]:
        """The constants that some node reads."""
        read = {name for node in self.nodes for name in node.input}
        return [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k in read]
