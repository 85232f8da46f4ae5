"""What holds between an unbroken run and one that was killed and resumed."""

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fedloom_server.recovery.checkpoints import arrays_in
from fedloom_server.store.run_store import RunStore


def compare(whole: Path, broken: Path) -> list[str]:
    """The laws that do not hold, in words.

    The same final weights, the same figures of every round and client, the same privacy ledger, every
    update in a round exactly once, a database that SQLite finds whole, every array file that is referred
    to and no other, and no file that the unbroken run does not leave.
    """
    faults: list[str] = []
    with RunStore.open(whole) as expected, RunStore.open(broken) as found:
        for name, rows in (("round", _rounds), ("client", _clients), ("privacy", _ledger)):
            faults += [
                f"the {name} figures differ: {one} and {other}"
                for one, other in zip_longest(rows(expected), rows(found))
                if one != other
            ][:1]
        if weights_hash(whole) != weights_hash(broken):
            faults.append("arrays_sha256 differs")
        updates = found.execute(
            "SELECT count(*), count(DISTINCT round * 1000 + client) FROM client_round WHERE phase = 'train'"
        )[0]
        if updates[0] != updates[1]:
            faults.append("an update is in a round twice")
        if (check := found.execute("PRAGMA integrity_check")[0][0]) != "ok":
            faults.append(f"run.db: {check}")
        faults += _arrays(found)
    faults += [f"left over: {name}" for name in sorted(_files(broken) - _files(whole))]
    return faults


def _arrays(store: RunStore) -> list[str]:
    used = set().union(
        *(arrays_in(json.loads(row[0])) for row in store.execute("SELECT state FROM checkpoint"))
    )
    for table in ("client_state", "quarantine"):
        used |= {row[0] for row in store.execute(f"SELECT arrays FROM {table} WHERE arrays IS NOT NULL")}
    kept = {path.stem for path in (store.folder / "arrays").glob("*.safetensors")}
    faults = []
    if len(kept - used) > 1:  # the best round's is in nobody's state
        faults.append(f"{len(kept - used)} array files that nothing refers to")
    if used - kept:
        faults.append(f"{len(used - kept)} array files are missing")
    return faults


def _files(folder: Path) -> set[str]:
    """Names of files relative to a run's folder; names of TensorBoard files bear times."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return {name for name in names if not name.startswith("tensorboard/")}


def _rounds(store: RunStore) -> list[Any]:
    timing = ("seconds", "train_seconds", "aggregate_seconds", "bytes_up")
    return [{k: v for k, v in vars(r).items() if k not in timing} for r in store.rounds()]


def _clients(store: RunStore) -> list[Any]:
    parts = [*store.client_rounds("train"), *store.client_rounds("evaluate")]
    return [(p.round, p.client, p.phase, p.status, p.examples, p.loss, p.metric) for p in parts]


def _ledger(store: RunStore) -> list[Any]:
    return [tuple(row) for row in store.execute("SELECT * FROM privacy")]


def weights_hash(folder: Path) -> Any:
    """`arrays_sha256` of the run in a folder."""
    return json.loads((folder / "result.json").read_text())["arrays_sha256"]
