"""Cells of a table as numbers, and a column of them as targets."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)


def number(place: str, column: str, cell: Any) -> float:
    """A cell as a number.

    Raises:
        DataError: it is none, or none that 32 bits can hold.
    """
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise DataError(
            f"{place}, column {column!r}: {cell!r} is no number; mend the cell or leave the column out"
        ) from None
    if not abs(value) <= _LARGEST:
        raise DataError(
            f"{place}, column {column!r}: {cell!r} is not finite in 32 bits; fill the cell or drop the row"
        )
    return value


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def targets(places: list[str], cells: list[Any], column: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """A column to predict: words as classes int64 (N,) in alphabetical order, with their names.

    Whole numbers are classes int64 (N,) without names, other numbers float32 (N,).

    Raises:
        DataError: a number among words or the reverse, or a number that is not finite.
    """
    numeric = np.array([_is_number(cell) for cell in cells])
    if not numeric.any():
        names, classes = np.unique([str(cell) for cell in cells], return_inverse=True)
        return classes.astype(np.int64), tuple(str(name) for name in names)
    if not numeric.all():  # one slip of the pen would turn every number into a class
        most = numeric.mean() >= 0.5
        odd = int(np.flatnonzero(numeric != most)[0])
        what = "no number" if most else "a number"
        raise DataError(
            f"{places[odd]}, column {column!r}: {cells[odd]!r} is {what}, unlike most of the column; "
            "mend the cell or drop the row"
        )
    values = [number(place, column, cell) for place, cell in zip(places, cells, strict=True)]
    whole = all(value == int(value) for value in values) and not any("." in str(cell) for cell in cells)
    return np.array(values, np.int64 if whole else np.float32), ()
