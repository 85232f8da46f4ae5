"""`fedloom` commands in processes that can be killed, and what is left of them."""

import contextlib
import io
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedloom_client.flower.records import from_record, to_record
from fedloom_edge.cli import main as fedloom

LIMIT = 300.0
"""Seconds for one process."""
_MARK = "FEDLOOM_SOAK"
_VELOCITY = "soak/velocity"
_PATIENCE = 15.0  # seconds within which a killed process's own processes end
_PRELOADED = [
    "fedloom_simulations.session",
    "fedloom_simulations.engine.inline",
    "fedloom_server.link.serving",
]


@dataclass(frozen=True)
class Conditions:
    """Under which a command runs.

    Attributes:
        mark: a name that no other process bears, by which its processes are known.
        temporary: the folder for its temporary files.
        every_update: whether an open round is saved after each update, or only at a slow pace.
        stateful: whether clients have a state that their updates depend on.
    """

    mark: str
    temporary: Path
    every_update: bool
    stateful: bool


def run_command(argv: Sequence[str], conditions: Conditions, kill_after: float | None = None) -> int:
    """Run `fedloom` in a process, killed after some seconds; its exit code, or minus the signal.

    Processes are forked from a server that has imported everything and runs no thread: importing torch
    anew takes longer than a run, and a fork of a process with threads may wait for a lock forever.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(_PRELOADED)
    process = processes.Process(target=_run, args=(list(argv), conditions))
    process.start()
    process.join(LIMIT if kill_after is None else kill_after)
    process.kill()  # one that has ended takes no harm
    process.join()
    return int(process.exitcode or 0)


def left_running(mark: str) -> list[int]:
    """Ids of processes of marked commands that are still there after some patience."""
    deadline = time.monotonic() + _PATIENCE
    while (found := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _marked(mark: str) -> list[int]:
    entry = f"{_MARK}={mark}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if entry in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _run(argv: Sequence[str], conditions: Conditions) -> None:
    os.environ[_MARK] = conditions.mark
    os.environ["TMPDIR"] = tempfile.tempdir = str(conditions.temporary)
    if conditions.every_update:
        _save_every_update()
    if conditions.stateful:
        _give_clients_a_state()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        code = fedloom(argv)
    os._exit(code)


def _save_every_update() -> None:
    import fedloom_server.rounds.open_round

    fedloom_server.rounds.open_round.Pace.due = lambda self: True  # type: ignore[method-assign]


def _give_clients_a_state() -> None:
    import fedloom_simulations.setup

    fedloom_simulations.setup.MODS.append(with_momentum)


def with_momentum(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A Flower mod: each client adds a share of its earlier updates, which it keeps in `Context.state`."""
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    origin = from_record(message.content.array_records["arrays"])
    trained = from_record(reply.content.array_records["arrays"])
    before = context.state.array_records.get(_VELOCITY)
    velocity = from_record(before) if before else {name: np.zeros_like(a) for name, a in origin.items()}
    velocity = {name: 0.5 * velocity[name] + (trained[name] - origin[name]) for name in origin}
    content = RecordDict({**reply.content})
    content["arrays"] = to_record({name: trained[name] + 0.1 * velocity[name] for name in origin})
    context.state[_VELOCITY] = to_record(velocity)
    return Message(content, reply_to=message)
