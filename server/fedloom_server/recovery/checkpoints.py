"""Checkpoints: what a run goes on from after a crash, verified before it is believed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError, RunError
from fedloom_server.recovery.client_state import decode_state, encode_state
from fedloom_server.store.run_store import RunStore


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints of finished rounds stay on disk. The best round's arrays always do.

    Attributes:
        last: the newest ones, at least 1.
        every: also each Nth round's; 0 for none.
    """

    last: int = 3
    every: int = 0

    def __post_init__(self) -> None:
        if self.last < 1 or self.every < 0:
            raise InputError("checkpoints.last must be at least 1 and checkpoints.every at least 0")


@dataclass(frozen=True)
class Checkpoint:
    """A state of the run between two updates.

    Attributes:
        id: grows with every checkpoint.
        round: the last finished round.
        open: whether the round after it had begun.
        state: JSON values, and hashes under which arrays are kept; `arrays_in` lists the hashes.
    """

    id: int
    round: int
    open: bool
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of a run, in the tables `checkpoint` and `client_state`."""

    def __init__(self, store: RunStore, keep: Keep) -> None:
        self._store = store
        self._keep = keep

    def add(self, number: int, state: Mapping[str, Any], clients: Mapping[int, RecordDict]) -> None:
        """Write a checkpoint after round `number`; call it inside `transaction`, arrays being on disk.

        `clients` are the states that changed since the checkpoint before.
        """
        text = json.dumps(state)
        opened = int("open" in state)
        # One of an open round is of no use once there is a later one.
        self._store.execute("DELETE FROM checkpoint WHERE open = 1")
        row = self._store.execute(
            "INSERT INTO checkpoint (round, open, state, sha256) VALUES (?, ?, ?, ?) RETURNING id",
            (number, opened, text, _sha256(text)),
        )[0]
        for client, records in clients.items():
            plain, arrays = encode_state(records)
            digest = self._store.put_arrays(arrays) if arrays else None
            self._store.execute(
                "INSERT INTO client_state VALUES (?, ?, ?, ?)", (client, row["id"], json.dumps(plain), digest)
            )

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose state and arrays are whole; None if there never was one.

        Whatever is damaged is removed and said in an event, and rounds after the checkpoint are undone.

        Raises:
            RunError: there are checkpoints and all are damaged.
        """
        rows = self._store.execute("SELECT * FROM checkpoint ORDER BY id DESC")
        for row in rows:
            try:
                found = self._verified(dict(row))
            except RunError as error:
                self._forget(int(row["id"]), int(row["round"]), str(error))
                continue
            with self._store.transaction():
                self._store.drop_rounds_after(found.round)
                self._store.execute("DELETE FROM client_state WHERE checkpoint > ?", (found.id,))
            return found
        if rows:
            raise RunError(f"{self._store.folder}: every checkpoint is damaged; start the run again")
        return None

    def client_states(self, checkpoint: Checkpoint) -> dict[int, RecordDict]:
        """Client -> its state as of `checkpoint`."""
        rows = self._store.execute(
            "SELECT client, records, arrays, max(checkpoint) FROM client_state WHERE checkpoint <= ? "
            "GROUP BY client",
            (checkpoint.id,),
        )
        return {
            row["client"]: decode_state(
                json.loads(row["records"]), self._store.get_arrays(row["arrays"]) if row["arrays"] else {}
            )
            for row in rows
        }

    def prune(self, number: int, keep: Iterable[str]) -> None:
        """After round `number`: drop old checkpoints, then every array file that nothing refers to.

        `keep` are further hashes to keep.
        """
        stays = "round > ? OR (? > 0 AND round % ? = 0 AND round > 0)"
        every = max(self._keep.every, 1)
        values = (number - self._keep.last, self._keep.every, every)
        with self._store.transaction():
            self._store.execute(f"DELETE FROM checkpoint WHERE NOT ({stays})", values)
            # A state stays where it is its client's newest for some checkpoint; one that only a save of
            # an open round knew, and a later save replaced, goes.
            newer = (
                "SELECT 1 FROM client_state n WHERE n.client = client_state.client "
                "AND n.checkpoint > client_state.checkpoint AND n.checkpoint <= k.id"
            )
            self._store.execute(
                "DELETE FROM client_state WHERE NOT EXISTS (SELECT 1 FROM checkpoint k "
                f"WHERE k.id >= client_state.checkpoint AND NOT EXISTS ({newer}))"
            )
        used = set(keep)
        for row in self._store.execute("SELECT state FROM checkpoint"):
            used |= arrays_in(json.loads(row["state"]))
        for table in ("client_state", "quarantine"):
            rows = self._store.execute(f"SELECT arrays FROM {table} WHERE arrays IS NOT NULL")
            used |= {row["arrays"] for row in rows}
        self._store.keep_arrays(used)

    def _verified(self, row: Mapping[str, Any]) -> Checkpoint:
        if _sha256(row["state"]) != row["sha256"]:
            raise RunError(f"checkpoint {row['id']} has another hash than when it was written")
        found = Checkpoint(row["id"], row["round"], bool(row["open"]), json.loads(row["state"]))
        for digest in sorted(arrays_in(found.state)):
            self._whole(digest)
        for state in self._store.execute(
            "SELECT arrays, max(checkpoint) FROM client_state WHERE checkpoint <= ? GROUP BY client",
            (found.id,),
        ):
            if state["arrays"]:
                self._whole(state["arrays"])
        return found

    def _whole(self, digest: str) -> Arrays:
        try:
            return self._store.get_arrays(digest)
        except RunError:
            self._store.drop_arrays(digest)
            raise

    def _forget(self, number: int, round_number: int, reason: str) -> None:
        with self._store.transaction():
            self._store.execute("DELETE FROM checkpoint WHERE id = ?", (number,))
            self._store.event(
                "damaged", round_number=round_number, reason=f"{reason}; going on from the checkpoint before"
            )


def arrays_in(state: Any) -> set[str]:
    """Every hash in a checkpoint's state: strings under a key that ends in `arrays`."""
    if isinstance(state, Mapping):
        own = {value for key, value in state.items() if key.endswith("arrays") and isinstance(value, str)}
        return own.union(*(arrays_in(value) for value in state.values()))
    if isinstance(state, list):
        return set().union(*map(arrays_in, state))
    return set()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
