"""What an operator asks of a run: a row in its table `command`, which its round loop takes up."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fedloom_edge.cli import COMMANDS
from fedloom_server.dashboard.database import reading
from fedloom_server.dashboard.endpoint import ApiError
from fedloom_server.dashboard.state import state
from fedloom_server.store.run_store import DATABASE

ACTIONS = ("pause", "resume", "stop", "exclude", "include", "restart")
LOG = "resume.log"
"""What a run says that was started again from here, in its folder."""
_OF_A_CLIENT = ("exclude", "include")
_BUSY = 5.0  # seconds to wait for the round loop's own transaction


def actions(status: str) -> list[str]:
    """What may be asked of a run with this status."""
    return {
        "running": ["pause", "stop", "exclude", "include"],
        "paused": ["resume", "stop", "exclude", "include"],
        "interrupted": _restart(),
        "failed": _restart(),
        "crashed": _restart(),
    }.get(status, [])


class Restarts:
    """Runs that were started again from here: whether they are up yet, and why not where they failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, folder: Path, who: str) -> int:
        """Start `fedloom resume` as a process of its own, which outlives the dashboard.

        Returns:
            The id of the request in the run's table `command`.

        Raises:
            ApiError: that is under way already.
        """
        with self._lock:
            if self._starting(folder):
                raise ApiError(409, "this run is being started again already")
            number = _write(folder, "restart", None, who, taken=time.time())
            with (folder / LOG).open("wb") as log:
                self._processes[folder] = subprocess.Popen(
                    [sys.executable, "-m", "fedloom_edge.cli", "resume", str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        return number

    def told(self, folder: Path, taken_over_by: Any) -> dict[str, Any]:
        """`starting`, and the `problem` of one that ended before it had taken the run over."""
        with self._lock:
            if self._starting(folder):
                return {"starting": True, "problem": ""}
            process = self._processes.get(folder)
        mark = taken_over_by if isinstance(taken_over_by, dict) else {}
        if process is None or mark.get("pid") == process.pid:
            return {"starting": False, "problem": ""}
        return {"starting": False, "problem": _last_words(folder / LOG)}

    def _starting(self, folder: Path) -> bool:
        process = self._processes.get(folder)
        return process is not None and process.poll() is None


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:500] for line in lines[::-1] if line.strip()), "it ended without a word")


def ask(folder: Path, action: str, client: Any, who: str, restarts: Restarts) -> dict[str, Any]:
    """Write down what was asked, with who and when.

    Raises:
        ApiError: the action is unknown, does not fit the run's state, or names no client of the run.
    """
    if action not in ACTIONS:
        raise ApiError(422, f"action: give one of {', '.join(ACTIONS)}")
    with reading(folder) as database:
        now = state(database)
        if action not in actions(now.status):
            raise ApiError(409, f"a run that is {now.status} cannot be asked to {action}")
        if not database.columns("command"):
            raise ApiError(409, "this run was made by an older fedloom, which takes no commands")
        if action in _OF_A_CLIENT:
            _check_client(client, database.value("SELECT max(id) FROM client"))
    if action == "restart":
        return {"id": restarts.start(folder, who), "action": action}
    return {"id": _write(folder, action, client if action in _OF_A_CLIENT else None, who), "action": action}


def _check_client(client: Any, largest: int | None) -> None:
    if not isinstance(client, int) or isinstance(client, bool) or not 0 <= client <= (largest or 0):
        raise ApiError(422, f"client: give a client of this run, from 0 to {largest}")


def _write(folder: Path, action: str, client: int | None, who: str, taken: float | None = None) -> int:
    uri = f"{(folder / DATABASE).absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY)
    try:
        with connection:
            cursor = connection.execute(
                "INSERT INTO command (time, who, action, client, taken) VALUES (?, ?, ?, ?, ?)",
                (time.time(), who, action, client, taken),
            )
            if action == "restart":
                connection.execute(
                    "INSERT INTO event (time, kind, data) VALUES (?, 'restart', ?)",
                    (time.time(), json.dumps({"who": who})),
                )
            return int(cursor.lastrowid or 0)
    except sqlite3.OperationalError as error:
        raise ApiError(503, f"the run's store cannot be written: {error}") from error
    finally:
        connection.close()


def _restart() -> list[str]:
    return ["restart"] if "resume" in COMMANDS else []
