"""A run made again, with each round's updates as the mean took them in."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedloom_client.flower.records import from_record, select
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.errors import RunError
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_server.guard.norms import bucket
from fedloom_server.rounds.decoding import Decoder
from fedloom_server.rounds.messages import NORM
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.updates import towards
from fedloom_simulations.explain.subject import Subject
from fedloom_simulations.session import run_session

Updates = dict[int, tuple[int, Arrays]]
"""Client -> its examples and the arrays that it sent."""
Take = Callable[[int, Arrays, Updates], None]
"""Takes a round's number, the arrays that it began with, and the updates that counted."""


class _KeepingGrid(GridWrapper):
    """Passes everything on and keeps what is sent and answered of the newest attempt at training."""

    def __init__(self, inner: Grid) -> None:
        super().__init__(inner)
        self._clients: dict[int, int] = {}
        self.origin: Arrays = {}
        self.replies: dict[int, Message] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages and give the replies."""
        asked = list(messages)
        if asked and asked[0].metadata.message_type == MessageType.TRAIN:
            self.origin, self.replies = _arrays(asked[0]), {}
        for reply in self.inner.send_and_receive(asked, timeout=timeout):
            node, kind = reply.metadata.src_node_id, reply.metadata.message_type
            if kind == MessageType.QUERY and not reply.has_error():
                facts: Any = reply.content.metric_records["metrics"]
                self._clients[node] = int(facts["partition-id"])
            elif kind == MessageType.TRAIN and not reply.has_error():
                # Another record of the same arrays: the intake decodes the reply's, strategies empty it.
                record = reply.content.array_records["arrays"]
                kept = RecordDict({"arrays": select(record, list(record))})
                self.replies.setdefault(self._clients[node], Message(kept, 1, MessageType.TRAIN))
            yield reply


class _Watch:
    """A watcher that hands on the updates of each round once the store says which of them counted."""

    grid: _KeepingGrid

    def __init__(self, subject: Subject, out: Path, take: Take) -> None:
        self._plan, self._out, self._take = subject.setup.plan, out, take
        self._statistics = TorchTrainer(self._plan.task).statistics

    def wrap(self, grid: Grid) -> Grid:
        """The grid that is listened to."""
        self.grid = _KeepingGrid(grid)
        return self.grid

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, entry: Round) -> None:
        """Hand on the updates that the guard took in."""
        if self.grid.replies:
            with RunStore.open(self._out) as store:
                rows = [row for row in store.client_rounds("train") if row.round == entry.number]
            updates = {
                row.client: (row.examples or 0, self._as_taken(row.client, entry, row.metrics))
                for row in rows
                if row.status == "ok" and row.client in self.grid.replies
            }
            self.grid.replies = {}
            if updates:
                self._take(entry.number, self.grid.origin, updates)

    def _as_taken(self, client: int, entry: Round, figures: Any) -> Arrays:
        """An update decoded, and clipped by its norm where the guard did that."""
        reply, origin = self.grid.replies[client], self.grid.origin
        Decoder(self._plan.orders.at_round(entry.number), origin, self._statistics).decode(reply)
        arrays = _arrays(reply)
        if self._plan.guard.norms != "clip" or entry.norm_limit is None:
            return arrays
        # As the mean does it: a bucket of norms comes down to the limit together.
        factor = min(entry.norm_limit / 2.0 ** (bucket(figures[NORM]) / 2), 1.0)
        return {name: towards(origin[name], array, factor) for name, array in arrays.items()}


def run_again(subject: Subject, take: Take) -> bool:
    """Make a run again in a folder that is removed afterwards, and hand each round's updates to `take`.

    Returns:
        Whether it comes to the same arrays.

    Raises:
        RunError: it ends before its last round.
    """
    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "run")
        watch = _Watch(subject, out, take)
        setup = replace(subject.setup, out=out, wrap=watch.wrap, watchers=[watch], dashboard=False)
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            code = run_session(setup)
        with RunStore.open(out) as store:
            if code:
                raise RunError(f"{subject.folder}: made again, the run ends with: {store.facts()['reason']}")
            return arrays_sha256(subject.arrays) == store.rounds()[-1].arrays


def _arrays(message: Message) -> Arrays:
    return from_record(message.content.array_records["arrays"])
