"""A run's tables as CSV or Parquet."""

import csv
import io
from typing import Any

from fedloom_server.dashboard.database import Database
from fedloom_server.dashboard.endpoint import ApiError

TABLES = (
    "run", "client", "round", "client_round", "event", "command", "quarantine", "device", "device_sample",
    "checkpoint", "client_state", "privacy",
)  # fmt: skip
MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(database: Database, name: str, form: str) -> bytes:
    """A whole table in a form of MEDIA.

    Raises:
        ApiError: this run has no such table, or pyarrow is not installed.
    """
    names = [row[0] for row in database.rows("SELECT name FROM pragma_table_info(?) ORDER BY cid", (name,))]
    if not names:
        raise ApiError(404, f"this run has no table {name}")
    rows = database.rows(f"SELECT {', '.join(names)} FROM {name}")
    return _csv(names, rows) if form == "csv" else _parquet(names, rows)


def _csv(names: list[str], rows: list[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _harmless(cell: Any) -> Any:
    """A text that a spreadsheet does not take for a formula: reasons come from clients."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _parquet(names: list[str], rows: list[tuple[Any, ...]]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ApiError(501, "Parquet needs pyarrow where the dashboard runs: pip install pyarrow") from None
    columns = [pyarrow.array([row[place] for row in rows]) for place in range(len(names))]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, names=names), sink)
    return sink.getvalue()
