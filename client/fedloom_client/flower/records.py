"""Arrays as Flower records and back, without a copy and without serialisation inside a process."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays

_STYPE = "numpy.ndarray"


class HeldArray(Array):
    """A Flower `Array` that holds a numpy array, and makes its bytes when somebody asks for them.

    Flower's own serialises when it is made. `numpy()` gives a copy, as Flower's does: strategies may
    change it in place.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        # Not by assignment, which Flower's class watches.
        self.__dict__.update(dtype=str(array.dtype), shape=array.shape, stype=_STYPE, _held=array)

    @property
    def data(self) -> bytes:
        """The array in numpy's file format."""
        if (made := self.__dict__.get("_bytes")) is None:
            buffer = BytesIO()
            np.save(buffer, self.__dict__["_held"], allow_pickle=False)
            made = self.__dict__["_bytes"] = buffer.getvalue()
        return bytes(made)

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__.update(_bytes=value, _held=np.load(BytesIO(value), allow_pickle=False))

    @property
    def held(self) -> NDArray[Any]:
        """The array itself, read-only and without a copy."""
        view: NDArray[Any] = self.__dict__["_held"].view()
        view.flags.writeable = False
        return view

    @property
    def size(self) -> int:
        """How many bytes `data` has."""
        held: NDArray[Any] = self.__dict__["_held"]
        return _header(held.dtype.str, held.shape, bool(held.flags.fnc)) + held.nbytes

    def numpy(self) -> NDArray[Any]:
        """A copy of the array."""
        copy: NDArray[Any] = self.__dict__["_held"].copy()
        return copy

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.data) == (other.dtype, tuple(other.shape), other.data)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return Array, (self.dtype, self.shape, self.stype, self.data)


# Flower writes an object's class name in front of its bytes, and finds the class to read it by.
HeldArray.__qualname__ = Array.__qualname__


def to_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as a Flower record, names and order kept; they are not copied and must not change."""
    return select({name: HeldArray(array) for name, array in arrays.items()}, arrays)


def select(record: Mapping[str, Array], names: Iterable[str]) -> ArrayRecord:
    """A record with some arrays of another, without a copy (Flower's constructor serialises them)."""
    selected = ArrayRecord()
    for name in names:
        selected[name] = record[name]
    return selected


def from_record(record: ArrayRecord) -> Arrays:
    """A Flower record as arrays, names and order kept; read-only where the record holds them itself."""
    return {name: to_numpy(array) for name, array in record.items()}


def arrays_in(content: RecordDict, name: str) -> Arrays:
    """The arrays of one record of a message or a state; empty where there is no such record."""
    # Not content.array_records, which makes a new record of records each time.
    record = content.get(name)
    return from_record(record) if isinstance(record, ArrayRecord) else {}


def put_arrays(content: RecordDict, record: ArrayRecord) -> None:
    """Put another record in the place of `arrays`; where one just sets it, Flower warns."""
    del content["arrays"]
    content["arrays"] = record


def values_in(content: RecordDict, name: str) -> Any:
    """The values of one record of settings or figures, which may be changed; empty where there is none."""
    record = content.get(name)
    return record if isinstance(record, ConfigRecord | MetricRecord) else {}


def to_numpy(array: Array) -> NDArray[Any]:
    """One array of a record, read-only where the record holds it itself."""
    return array.held if isinstance(array, HeldArray) else array.numpy()


def count_bytes(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    """What Flower's `count_bytes` says, without serialising."""
    if type(record) is not ArrayRecord:
        return record.count_bytes()
    return sum(
        len(name) + (array.size if isinstance(array, HeldArray) else len(array.data))
        for name, array in record.items()
    )


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...], fortran: bool) -> int:
    buffer = BytesIO()
    fields = {"descr": dtype, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.tell()
