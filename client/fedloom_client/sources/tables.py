"""Tables on disk: one CSV or Parquet file, or a folder of them."""

import csv as csv_reader
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.samples import ArraySamples
from fedloom_edge.errors import DataError, InputError, unknown

Row = tuple[str, dict[str, Any]]
"""(`file:line`, column -> cell)."""


def csv(
    path: str | Path, target: str, *, features: Sequence[str] | None = None, group: str | None = None
) -> ArraySamples:
    """Samples from a CSV file with a header line, or from every .csv file of a folder.

    Args:
        path: file or folder.
        target: column to predict. Numbers become float32, whole numbers int64 classes, and any other
            text classes in alphabetical order.
        features: columns of numbers to predict from (N, F) float32; default: all the others.
        group: column that says whose a row is, or `file` for one owner a file.

    Raises:
        DataError: no file, a missing column, a ragged line, a cell that is no finite number; each
            with file, line and column.
    """
    rows = (row for file in _files(path, ".csv") for row in _csv_rows(file))
    return _samples(list(rows), path, target, features, group)


def parquet(
    path: str | Path, target: str, *, features: Sequence[str] | None = None, group: str | None = None
) -> ArraySamples:
    """Samples from a Parquet file or from every .parquet file of a folder; arguments as for `csv`.

    Raises:
        InputError: pyarrow is not installed.
        DataError: as for `csv`; lines are row numbers.
    """
    rows = (row for file in _files(path, ".parquet") for row in _parquet_rows(file))
    return _samples(list(rows), path, target, features, group)


def _files(path: str | Path, suffix: str) -> list[Path]:
    path = Path(path)
    if path.is_file():
        return [path]
    files = sorted(path.glob(f"*{suffix}"))
    if not files:
        raise DataError(
            f"{path} is no file and no folder with {suffix} files; give --data DIR or mend the path"
        )
    return files


def _csv_rows(file: Path) -> Iterator[Row]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv_reader.reader(lines)
        try:
            header = next(reader, None)
            if header is None:
                raise DataError(f"{file} is empty; the first line must name the columns")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    place = f"{file}:{reader.line_num}"
                    raise DataError(
                        f"{place} has {len(cells)} cells, the header {len(header)}; mend the line"
                    )
                yield f"{file}:{reader.line_num}", dict(zip(header, cells, strict=True))
        except (csv_reader.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file}:{reader.line_num}: {error}; save it as UTF-8 text") from error


def _parquet_rows(file: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ModuleNotFoundError as error:
        raise InputError("Parquet files need pyarrow: pip install 'fedloom[data]'") from error
    try:
        table = read_table(file)
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{file}:{number}", row


def _samples(
    rows: Sequence[Row], path: str | Path, target: str, features: Sequence[str] | None, group: str | None
) -> ArraySamples:
    if not rows:
        raise DataError(f"{path} has no rows; give it at least two")
    columns = list(rows[0][1])
    features = [c for c in columns if c not in (target, group)] if features is None else list(features)
    for place, row in rows:
        for column in (target, *features, *([group] if group and group != "file" else [])):
            if column not in row:
                raise DataError(f"{place.rpartition(':')[0]}: {unknown('column', column, row)}")
    x = np.array([[_number(place, c, row[c]) for c in features] for place, row in rows], np.float32)
    y, names = _targets([(place, row[target]) for place, row in rows], target)
    owners = (
        [place.rpartition(":")[0] if group == "file" else str(row[group]) for place, row in rows]
        if group
        else []
    )
    groups = np.unique(owners, return_inverse=True)[1].astype(np.int64) if group else None
    return ArraySamples(x, y, groups=groups, class_names=names)


def _number(place: str, column: str, cell: Any) -> float:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise DataError(
            f"{place}, column {column!r}: {cell!r} is no number; mend the cell or leave the column out"
        ) from None
    if not math.isfinite(value):
        raise DataError(f"{place}, column {column!r}: {cell!r} is not finite; fill the cell or drop the row")
    return value


def _targets(cells: Sequence[tuple[str, Any]], column: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Classes int64 (N,) with their names, or values float32 (N,) without."""
    try:
        values = [float(cell) for _, cell in cells]
    except (TypeError, ValueError):
        names, classes = np.unique([str(cell) for _, cell in cells], return_inverse=True)
        if "" in names or "None" in names:
            place = next(place for place, cell in cells if cell in ("", None))
            raise DataError(f"{place}, column {column!r} is empty; fill the cell or drop the row") from None
        return classes.astype(np.int64), tuple(str(name) for name in names)
    for place, cell in cells:
        _number(place, column, cell)
    whole = all(value == int(value) for value in values) and not any("." in str(cell) for _, cell in cells)
    return np.array(values, np.int64 if whole else np.float32), ()
