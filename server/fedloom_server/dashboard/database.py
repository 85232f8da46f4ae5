"""Reading a run's store that somebody else writes: short, read-only, and tolerant of older ones."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedloom_edge.errors import RunError
from fedloom_server.store.run_store import DATABASE

Rows = list[tuple[Any, ...]]


class Database:
    """A read-only connection that knows which tables and columns there are."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._columns: dict[str, frozenset[str]] = {}

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table; empty where the store has no such table."""
        if not self._columns.get(table):
            rows = self.connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            self._columns[table] = frozenset(name for (name,) in rows)
        return self._columns[table]

    def rows(self, query: str, values: Sequence[Any] = ()) -> Rows:
        """All rows of a query. They are fetched at once: an open read would hold the writer's log."""
        return self.connection.execute(query, values).fetchall()

    def value(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The first cell of the first row, or None."""
        rows = self.rows(query, values)
        return rows[0][0] if rows else None

    def table(
        self,
        table: str,
        wanted: Sequence[str],
        where: str = "",
        values: Sequence[Any] = (),
        computed: Sequence[str] = (),
    ) -> Rows:
        """Rows of some columns and then of `computed` expressions.

        None stands for a column that this store does not have.
        """
        there = self.columns(table)
        if not there:
            return []
        columns = (name if name in there else f"NULL AS {name}" for name in wanted)
        cells = ", ".join([*columns, *computed])
        return self.rows(f"SELECT {cells} FROM {table} {where}", values)

    def facts(self) -> dict[str, Any]:
        """The run's facts."""
        return {key: json.loads(value) for key, value in self.table("run", ("key", "value"))}

    def fact(self, key: str) -> Any:
        """One of the run's facts, or None."""
        text = self.value("SELECT value FROM run WHERE key = ?", (key,))
        return None if text is None else json.loads(text)


@contextmanager
def reading(folder: Path) -> Iterator[Database]:
    """A run's store for as long as the block lasts.

    Raises:
        RunError: it cannot be read.
    """
    try:
        connection = connect(folder)
    except sqlite3.Error as error:
        raise RunError(f"{folder / DATABASE} cannot be read: {error}") from error
    try:
        yield Database(connection)
    except sqlite3.Error as error:
        raise RunError(f"{folder / DATABASE} cannot be read: {error}") from error
    finally:
        connection.close()


def connect(folder: Path) -> sqlite3.Connection:
    """A read-only connection to a run's store that leaves no file of its own behind.

    Reading a WAL database makes a -wal and a -shm file where there are none, and fails where none can
    be made. A store without them has no writer, so it is read as a file that does not change.
    """
    path = (folder / DATABASE).absolute()
    mode = "mode=ro" if is_written(folder) else "immutable=1"
    connection = sqlite3.connect(
        f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def is_written(folder: Path) -> bool:
    """Whether somebody has the store open to write, or was cut off while doing so."""
    return (folder / f"{DATABASE}-wal").exists()


def finite(value: Any) -> Any:
    """The same with None for what JSON has no number for, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def columnar(names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
    """Rows as one list a column, which is half the bytes of a list of objects."""
    return {name: [finite(row[place]) for row in rows] for place, name in enumerate(names)}
