"""The run store: `run.db` (SQLite, WAL) and content-addressed arrays in a run's folder."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Self

from fedloom_edge.arrays import Arrays, arrays_sha256, load_arrays, save_arrays
from fedloom_edge.errors import InputError, RunError

FORMAT = 1
DATABASE = "run.db"


@dataclass(frozen=True)
class ClientRow:
    """A client of the run; the columns of table `client`."""

    id: int
    name: str
    examples: int
    validation: int
    labels: list[int] | None = None


@dataclass(frozen=True)
class ClientRound:
    """What one client did in one phase of a round; the columns of table `client_round`."""

    round: int
    client: int
    phase: str
    status: str
    reason: str = ""
    examples: int | None = None
    loss: float | None = None
    metric: float | None = None
    gradient_norm: float | None = None
    seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    finished: float | None = None


@dataclass(frozen=True)
class Round:
    """What a round came to; the columns of table `round`."""

    number: int
    loss: float | None
    metric: float | None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    train_loss: float | None = None
    federated_loss: float | None = None
    federated_metric: float | None = None
    worst_metric: float | None = None
    clients_ok: int = 0
    clients_failed: int = 0
    rejected: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    arrays: str = ""
    train_seconds: float | None = None
    aggregate_seconds: float | None = None


class RunStore:
    """One run's folder. The round loop writes; everybody else opens it read-only.

    Each round is one transaction, and the arrays it refers to are on disk before it.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Make a run's folder. `facts` go into table `run` as JSON values.

        Raises:
            InputError: the folder already holds a run, is a file, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "arrays").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {folder}: {error.strerror}; choose a folder that can be written"
            ) from error
        if (folder / DATABASE).exists():
            raise InputError(f"--out {folder} already holds a run; choose another folder or remove this one")
        schema = resources.files("fedloom_server").joinpath("schema.sql").read_text()
        connection = _connect(folder / DATABASE)
        connection.executescript(
            f"PRAGMA journal_mode=WAL; BEGIN; {schema} PRAGMA user_version={FORMAT}; COMMIT;"
        )
        store = cls(folder, connection)
        store.set_facts({"status": "running", "started": time.time(), **facts})
        return store

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run's folder to read it; a run that is going on may be read too.

        Raises:
            InputError: there is no run, or one of another format version.
        """
        path = folder / DATABASE
        if not path.is_file():
            raise InputError(
                f"{folder} holds no run (there is no {DATABASE}); give the folder that --out named"
            )
        try:
            connection = _connect(path, read_only=True)
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.Error as error:
            raise RunError(f"{path} cannot be read ({error}); it may be damaged") from error
        if version != FORMAT:
            raise InputError(
                f"{path} has format {version}, this fedloom reads {FORMAT}; use the version that wrote it"
            )
        return cls(folder, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; a writer leaves nothing in the -wal file, even if somebody reads on."""
        with suppress(sqlite3.Error):  # a reader's connection, or a full disk: SQLite does it later
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become visible together or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Write facts about the run; a known key is replaced."""
        self._write("run", ((key, json.dumps(value)) for key, value in facts.items()), columns=2)

    def facts(self) -> dict[str, Any]:
        """All facts about the run."""
        rows = self._connection.execute("SELECT key, value FROM run")
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def add_clients(self, clients: Iterable[ClientRow]) -> None:
        """Write the run's clients."""
        self._write("client", map(_cells, clients), columns=len(fields(ClientRow)))

    def clients(self) -> list[ClientRow]:
        """The run's clients by id."""
        return [
            ClientRow(**_row(row)) for row in self._connection.execute("SELECT * FROM client ORDER BY id")
        ]

    def add_round(self, entry: Round, clients: Iterable[ClientRound]) -> None:
        """Write a round with its clients' parts; call it inside `transaction`."""
        self._write("client_round", map(_cells, clients), columns=len(fields(ClientRound)))
        self._write("round", [_cells(entry)], columns=len(fields(Round)))

    def rounds(self) -> list[Round]:
        """The finished rounds by number, round 0 included."""
        return [Round(**_row(row)) for row in self._connection.execute("SELECT * FROM round ORDER BY number")]

    def client_rounds(self, phase: str) -> list[ClientRound]:
        """Every client's part in every round, in one phase (`train` or `evaluate`)."""
        query = "SELECT * FROM client_round WHERE phase = ? ORDER BY round, client"
        return [ClientRound(**_row(row)) for row in self._connection.execute(query, (phase,))]

    def event(
        self, kind: str, *, round_number: int | None = None, client: int | None = None, **data: Any
    ) -> None:
        """Append an event; its id grows by one and is never used again."""
        self._connection.execute(
            "INSERT INTO event (time, kind, round, client, data) VALUES (?, ?, ?, ?, ?)",
            (time.time(), kind, round_number, client, json.dumps(data)),
        )

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events in order, all or of one kind."""
        query = "SELECT * FROM event WHERE kind = ? OR ? IS NULL ORDER BY id"
        return [_row(row) for row in self._connection.execute(query, (kind, kind))]

    def open_commands(self) -> list[dict[str, Any]]:
        """What operators asked for and nobody has taken up yet, in order."""
        return [
            dict(row)
            for row in self._connection.execute("SELECT * FROM command WHERE taken IS NULL ORDER BY id")
        ]

    def take_command(self, number: int) -> None:
        """Note that a request is taken up."""
        self._connection.execute("UPDATE command SET taken = ? WHERE id = ?", (time.time(), number))

    def put_arrays(self, arrays: Arrays) -> str:
        """Keep arrays under their hash; returns the hash. Writing the same arrays again is free."""
        digest = arrays_sha256(arrays)
        path = self._arrays_path(digest)
        if not path.exists():
            save_arrays(path, arrays)
        return digest

    def get_arrays(self, digest: str) -> Arrays:
        """The arrays kept under `digest`.

        Raises:
            RunError: they are missing or their content does not have this hash.
        """
        arrays = load_arrays(self._arrays_path(digest))
        if arrays_sha256(arrays) != digest:
            raise RunError(
                f"{self._arrays_path(digest)} is damaged: its content has another hash than its name"
            )
        return arrays

    def keep_arrays(self, digests: set[str]) -> None:
        """Remove every kept array file that is not in `digests`."""
        for path in (self.folder / "arrays").glob("*.safetensors"):
            if path.stem not in digests:
                path.unlink()

    def _arrays_path(self, digest: str) -> Path:
        return self.folder / "arrays" / f"{digest}.safetensors"

    def _write(self, table: str, rows: Iterable[tuple[Any, ...]], *, columns: int) -> None:
        marks = ", ".join("?" * columns)
        self._connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    # isolation_level=None: transactions are where `transaction` says, not where the driver guesses.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


_JSON_COLUMNS = ("labels", "metrics", "data")


def _cells(entry: ClientRow | ClientRound | Round) -> tuple[Any, ...]:
    return tuple(json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in _values(entry))


def _values(entry: ClientRow | ClientRound | Round) -> Iterator[Any]:
    # Not dataclasses.astuple, which copies deeply: a fifth of a round of a hundred small clients.
    return (getattr(entry, column.name) for column in fields(entry))


def _row(row: sqlite3.Row) -> dict[str, Any]:
    return {
        key: json.loads(row[key]) if key in _JSON_COLUMNS and row[key] is not None else row[key]
        for key in row.keys()  # noqa: SIM118  (iterating a Row yields values, not keys)
    }
