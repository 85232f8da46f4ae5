"""The run store: `run.db` (SQLite, WAL) and content-addressed arrays in a run's folder."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, Self

from fedloom_edge.arrays import Arrays, arrays_sha256, load_arrays, save_arrays
from fedloom_edge.errors import InputError, RunError
from fedloom_edge.files import sync_files
from fedloom_server.store.database import connect, transaction, unreadable
from fedloom_server.store.folder_lock import FolderLock
from fedloom_server.store.rows import ClientRound, ClientRow, Round, cells_of, values_of

FORMAT = 2
"""What this version writes. Format 1 (without checkpoints) can be read and reported, not resumed."""
DATABASE = "run.db"
_READABLE = (1, 2)
_LEDGER = "CREATE TABLE IF NOT EXISTS privacy"  # the last table of the schema, younger than format 2


class RunStore:
    """One run's folder. The round loop writes; everybody else opens it read-only.

    Each round is one transaction, and the arrays it refers to are written before it. Nothing that is
    committed is lost by a kill; what is committed `durable` is not lost by a power cut either.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection
        self._lock: FolderLock | None = None
        self._unsynced: dict[Path, int] = {}  # array files that a power cut could damage, and their bytes

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
        for left in folder.glob(f".{DATABASE}*"):
            left.unlink()
        # Under another name until it says what the run is: whoever is killed before that has begun nothing.
        begun = folder / f".{DATABASE}"
        store = cls(folder, connect(begun))
        store.lock()
        store._connection.executescript(
            f"PRAGMA journal_mode=WAL; BEGIN; {_schema()} PRAGMA user_version={FORMAT}; COMMIT;"
        )
        store.set_facts({"status": "running", "started": time.time(), **facts})
        store._connection.close()
        begun.rename(folder / DATABASE)
        store._connection = connect(folder / DATABASE)
        return store

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run's folder to read it; a run that is going on may be read too.

        Raises:
            InputError: there is no run, a damaged one, or one of another format version.
        """
        path = folder / DATABASE
        if not path.is_file():
            raise InputError(
                f"{folder} holds no run (there is no {DATABASE}); give the folder that --out named"
            )
        try:
            connection = connect(path, read_only=True)
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.Error as error:
            raise unreadable(folder / DATABASE, error) from error
        if version not in _READABLE:
            raise InputError(
                f"{path} has format {version}, this fedloom reads {_READABLE[0]} to {_READABLE[-1]}; "
                "use the version that wrote it"
            )
        return cls(folder, connection)

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Open a run's folder to go on with the run; what a killed process left half-written is removed.

        Raises:
            InputError: there is no run, another process is at work on it, its database is damaged, or it
                is of a format that had no checkpoints.
        """
        cls.open(folder).close()
        connection = connect(folder / DATABASE)
        try:
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) < FORMAT:
                raise InputError(
                    f"{folder} was written before runs could be resumed; start it again with another --out"
                )
            store = cls(folder, connection)
            if (fault := connection.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise unreadable(folder / DATABASE, fault)
        except sqlite3.DatabaseError as error:
            raise unreadable(folder / DATABASE, error) from error
        store.lock()
        if "norm_limit" not in [row["name"] for row in connection.execute("PRAGMA table_info(round)")]:
            connection.execute("ALTER TABLE round ADD COLUMN norm_limit REAL")
        connection.executescript(_LEDGER + _schema().partition(_LEDGER)[2])
        for path in (*folder.glob(".*"), *(folder / "arrays").glob(".*")):
            if path.is_file():
                path.unlink()
        return store

    def lock(self) -> None:
        """Hold the run for this process; a crash lets it go.

        Raises:
            InputError: another process holds it.
        """
        try:
            self._lock = FolderLock(self.folder / "arrays")
        except BlockingIOError:
            self.close()
            raise InputError(f"{self.folder}: another process is at work on this run") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.close()
        if type(error) is sqlite3.DatabaseError:  # a page that is no page: found when it is read
            raise unreadable(self.folder / DATABASE, error) from error

    def close(self) -> None:
        """Close the database; a writer leaves nothing in the -wal file, even if somebody reads on."""
        sync_files(self._unsynced)
        with suppress(sqlite3.Error):  # a reader's connection, or a full disk: SQLite does it later
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All writes inside become visible together or not at all.

        If `durable` they, all before them and every array file kept so far are on disk afterwards.
        """
        if durable:
            self._connection.execute("PRAGMA synchronous=FULL")
        try:
            with transaction(self._connection):
                yield
                if durable:
                    sync_files(self._unsynced)
                    self._unsynced.clear()
        finally:
            if durable:
                self._connection.execute("PRAGMA synchronous=NORMAL")

    def settle(self) -> None:
        """Make everything written so far survive a power cut."""
        sync_files(self._unsynced)
        self._unsynced.clear()
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of array files written since the last durable transaction."""
        return sum(self._unsynced.values())

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Write facts about the run; a known key is replaced."""
        self._write("run", ((key, json.dumps(value)) for key, value in facts.items()), columns=2)

    def facts(self) -> dict[str, Any]:
        """All facts about the run."""
        rows = self._connection.execute("SELECT key, value FROM run")
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def add_clients(self, clients: Iterable[ClientRow]) -> None:
        """Write the run's clients."""
        self._write("client", map(cells_of, clients), columns=len(fields(ClientRow)))

    def clients(self) -> list[ClientRow]:
        """The run's clients by id."""
        return [
            ClientRow(**values_of(row))
            for row in self._connection.execute("SELECT * FROM client ORDER BY id")
        ]

    def add_round(self, entry: Round, clients: Iterable[ClientRound]) -> None:
        """Write a round with its clients' parts; call it inside `transaction`."""
        self._write("client_round", map(cells_of, clients), columns=len(fields(ClientRound)))
        self._write("round", [cells_of(entry)], columns=len(fields(Round)))

    def drop_rounds_after(self, number: int) -> None:
        """Forget rounds later than `number`; call it inside `transaction`."""
        self._connection.execute("DELETE FROM client_round WHERE round > ?", (number,))
        self._connection.execute("DELETE FROM round WHERE number > ?", (number,))

    def rounds(self) -> list[Round]:
        """The finished rounds by number, round 0 included."""
        return [
            Round(**values_of(row)) for row in self._connection.execute("SELECT * FROM round ORDER BY number")
        ]

    def client_rounds(self, phase: str) -> list[ClientRound]:
        """Every client's part in every round, in one phase (`train` or `evaluate`)."""
        query = "SELECT * FROM client_round WHERE phase = ? ORDER BY round, client"
        return [ClientRound(**values_of(row)) for row in self._connection.execute(query, (phase,))]

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
        return [values_of(row) for row in self._connection.execute(query, (kind, kind))]

    def open_commands(self) -> list[dict[str, Any]]:
        """What operators asked for and nobody has taken up yet, in order."""
        return [
            dict(row)
            for row in self._connection.execute("SELECT * FROM command WHERE taken IS NULL ORDER BY id")
        ]

    def take_command(self, number: int) -> None:
        """Note that a request is taken up."""
        self._connection.execute("UPDATE command SET taken = ? WHERE id = ?", (time.time(), number))

    def quarantined(self) -> list[dict[str, Any]]:
        """Refused updates that are kept, the newest first; none in a run of a format that kept none."""
        if int(self._connection.execute("PRAGMA user_version").fetchone()[0]) < FORMAT:
            return []
        return [
            dict(row)
            for row in self._connection.execute(
                "SELECT * FROM quarantine ORDER BY round DESC, attempt DESC, client"
            )
        ]

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Run one statement on the tables of another module of ours and return its rows."""
        return self._connection.execute(statement, values).fetchall()

    def put_arrays(self, arrays: Arrays) -> str:
        """Keep arrays under their hash; returns the hash. Writing the same arrays again is free."""
        digest = arrays_sha256(arrays)
        path = self._arrays_path(digest)
        if not path.exists():
            save_arrays(path, arrays, synced=False)
            self._unsynced[path] = sum(array.nbytes for array in arrays.values())
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

    def drop_arrays(self, digest: str) -> None:
        """Remove a file of arrays, so that the same arrays are written anew."""
        self._arrays_path(digest).unlink(missing_ok=True)

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


def _schema() -> str:
    return resources.files("fedloom_server.store").joinpath("schema.sql").read_text()
