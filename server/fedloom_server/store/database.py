"""What every SQLite database here shares."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom_edge.errors import InputError


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All writes inside become visible together or not at all.

    The connection's `isolation_level` is None: transactions are where they are said, not where the
    driver guesses.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a database, made if it is not there; or one that is there, to read it."""
    mode = "ro" if read_only else "rwc"
    # isolation_level=None: transactions are where `transaction` says, not where the driver guesses.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    if not read_only:
        # In WAL mode this is safe for the database and against a killed process; a power cut can undo
        # the commits since the last durable one as a whole, and then the run goes on from there.
        connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def unreadable(path: Path, fault: object) -> InputError:
    """What a person is told of a database that SQLite cannot read."""
    return InputError(f"{path} cannot be read ({fault}); if it is damaged, restore a copy of it")
