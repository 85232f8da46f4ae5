"""Tables on disk: one CSV or Parquet file, or a folder of them."""

import csv as csv_reader
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_client.data.samples import ArraySamples
from fedloom_client.sources.cells import number, targets
from fedloom_edge.errors import DataError, InputError, unknown

Row = tuple[str, dict[str, Any]]
"""(`file:line`, column -> cell)."""


def csv(
    path: str | Path | None,
    target: str,
    *,
    features: Sequence[str] | None = None,
    group: str | None = None,
    texts: bool = False,
) -> ArraySamples:
    """Samples from a CSV file with a header line, or from every .csv file of a folder.

    Args:
        path: file or folder.
        target: column to predict. Numbers become float32, whole numbers int64 classes, and any other
            text classes in alphabetical order.
        features: columns of numbers to predict from (N, F) float32; default: all the others.
        group: column that says whose a row is, or `file` for one owner a file.
        texts: the only other column, or the only one of `features`, holds texts (N,).

    Raises:
        DataError: no file, a missing or repeated column, a ragged line, an empty cell, a cell that is
            no finite number, a target that is a number among words or the reverse; each with its place.
    """
    rows = (row for file in _files(path, ".csv") for row in _csv_rows(file))
    return _samples(rows, path, target, features, group, texts)


def parquet(
    path: str | Path | None,
    target: str,
    *,
    features: Sequence[str] | None = None,
    group: str | None = None,
    texts: bool = False,
) -> ArraySamples:
    """Samples from a Parquet file or from every .parquet file of a folder; arguments as for `csv`.

    Raises:
        InputError: pyarrow is not installed.
        DataError: as for `csv`; lines are row numbers.
    """
    rows = (row for file in _files(path, ".parquet") for row in _parquet_rows(file))
    return _samples(rows, path, target, features, group, texts)


def _files(path: str | Path | None, suffix: str) -> list[Path]:
    if path is None:
        raise DataError(f"no folder with {suffix} files was given; name one with --data DIR")
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
            _check_names(file, header)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    place = f"{file}:{reader.line_num}"
                    raise DataError(
                        f"{place} has {len(cells)} cells, the header {len(header)}; mend the line"
                    )
                yield f"{file}:{reader.line_num}", dict(zip(header, cells, strict=True))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}:{_undecodable(file)}: {error.reason}; save it as UTF-8 text") from error
        except csv_reader.Error as error:
            raise DataError(f"{file}:{reader.line_num}: {error}; mend the line") from error


def _undecodable(file: Path) -> int:
    """The first line that is no UTF-8; the text reader decodes in chunks and cannot say."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.decode(errors="ignore").encode() != line:
                return number
    return 0


def _check_names(file: Path, names: Sequence[str]) -> None:
    twice = sorted(name for name in set(names) if list(names).count(name) > 1)
    if twice:
        raise DataError(f"{file}: column {twice[0]!r} stands twice in the header; rename one")


def _parquet_rows(file: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise InputError("Parquet files need pyarrow: pip install 'fedloom[data]'") from error
    try:
        with ParquetFile(file) as table:
            _check_names(file, table.schema_arrow.names)
            rows = (row for batch in table.iter_batches() for row in batch.to_pylist())
            for index, row in enumerate(rows, start=1):
                yield f"{file}:{index}", row
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _samples(
    rows: Iterable[Row],
    path: str | Path | None,
    target: str,
    features: Sequence[str] | None,
    group: str | None,
    texts: bool,
) -> ArraySamples:
    """One pass over the rows, so that memory holds numbers and not the table's text."""
    x = array("f")
    words: list[str] = []
    places: list[str] = []
    answers: list[Any] = []
    owners: list[str] = []
    for place, row in rows:
        places.append(place)
        answers.append(_filled(place, row, target))
        if group:
            owners.append(_file(place) if group == "file" else str(_filled(place, row, group)))
        if features is None:
            features = [column for column in row if column not in (target, group)]
        if not texts:
            x.extend([number(place, column, _cell(place, row, column)) for column in features])
        elif len(features) == 1:
            words.append(str(_filled(place, row, features[0])))
        else:
            raise DataError(f"{path} has {len(features)} columns beside {target!r}; leave one, of texts")
    if not places:
        raise DataError(f"{path} has no rows; give it at least two")
    if not features:
        raise DataError(f"{path} has no column to predict {target!r} from; add one, or name it in features=")
    y, names = targets(places, answers, target)
    groups = np.unique(owners, return_inverse=True)[1].astype(np.int64) if group else None
    numbers = np.frombuffer(x, np.float32).reshape(-1, len(features))
    return ArraySamples(np.array(words) if texts else numbers, y, groups=groups, class_names=names)


def _file(place: str) -> str:
    return place.rpartition(":")[0]


def _cell(place: str, row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise DataError(f"{_file(place)}: {unknown('column', column, row)}")
    return row[column]


def _filled(place: str, row: dict[str, Any], column: str) -> Any:
    cell = _cell(place, row, column)
    if cell is None or not str(cell).strip():
        raise DataError(f"{place}, column {column!r} is empty; fill the cell or drop the row")
    return cell
