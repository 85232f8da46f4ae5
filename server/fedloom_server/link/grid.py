"""LinkGrid: Flower's Grid over devices, so that every strategy and the round loop run unchanged."""

import hashlib
import logging
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flwr.app import Error, Message, MessageType
from flwr.serverapp import Grid

from fedloom_client.flower_app import CLIENT_FAILED
from fedloom_client.orders import ALGORITHM
from fedloom_edge.errors import RunError
from fedloom_server.flower_ids import adopt_identity
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.jobs import Job, Outcome
from fedloom_server.link.quorum import Quorum
from fedloom_server.link.records import Contents, to_reply, to_work

log = logging.getLogger("fedloom.link")

_TICK = 0.5
_SAY_EVERY = 30.0
_SUMMARY_BYTES = 64 << 20
_SPARE_BYTES = 1 << 20


class LinkGrid(Grid):
    """Pushes messages to devices and yields replies as they arrive."""

    def __init__(self, coordinator: Coordinator, quorum: Quorum, run: str) -> None:
        adopt_identity()
        self._coordinator = coordinator
        self._quorum = quorum
        self._run_name = run
        self._members: dict[int, str] = {}
        self._clients: dict[str, int] = {}
        self._pushed: dict[str, Message] = {}
        self._replies: dict[str, Message] = {}

    def gather(self, at_least: int, deadline: float) -> list[str]:
        """Wait until so many devices are connected; those connected then are the run's clients.

        Returns:
            Their names in the order of their client index: sorted, so the same fleet has the same order.

        Raises:
            RunError: too few came in `deadline` seconds.
        """
        began = said = time.monotonic()
        while len(devices := self._coordinator.connected()) < at_least:
            now = time.monotonic()
            if now - began > deadline:
                raise RunError(
                    f"{len(devices)} of {at_least} devices connected in {deadline:.0f} s; start again"
                )
            if now - said > _SAY_EVERY:
                said = now
                log.info("waiting for devices: %d of %d are connected", len(devices), at_least)
            time.sleep(0.02)
        self.enlist(sorted(devices))
        return sorted(devices)

    def enlist(self, devices: Sequence[str]) -> None:
        """Make these devices the run's clients, in this order."""
        self._members = {node_id(device): device for device in devices}
        self._clients = {device: client for client, device in enumerate(devices)}
        self._coordinator.enlist(devices)

    def get_node_ids(self) -> Iterable[int]:
        """The run's devices, connected or not: one that is away is waited for."""
        return list(self._members)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Give each device its message's work and yield replies until the phase is over (see `Quorum`).

        Raises:
            RunError: the deadline passed before a quorum had answered.
        """
        phase = _Phase(self, list(messages), timeout)
        try:
            yield from phase.replies()
        finally:
            self._coordinator.cancel()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Give the messages' work to the devices and wait for it; returns an id for each reply."""
        asked = list(messages)
        names = {m.metadata.dst_node_id: f"{len(self._pushed) + i}" for i, m in enumerate(asked)}
        self._pushed |= {names[m.metadata.dst_node_id]: m for m in asked}
        for reply in self.send_and_receive(asked):
            self._replies[names[reply.metadata.src_node_id]] = reply
        return list(names.values())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to pushed messages, each given out once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Flower's deprecated way to make a message."""
        raise NotImplementedError("create messages with flwr.app.Message")

    def set_run(self, run: Any) -> None:
        """There is one run on a coordinator."""

    @property
    def run(self) -> Any:
        """There is no Flower run record here."""
        raise NotImplementedError("the link keeps no Flower run record; see the run folder")


class _Phase:
    """One call of `send_and_receive`."""

    def __init__(self, grid: LinkGrid, messages: list[Message], timeout: float | None) -> None:
        self._coordinator = grid._coordinator
        self._quorum = grid._quorum
        self._timeout = timeout
        until = time.monotonic() + self._deadline
        contents = Contents()
        self._jobs: dict[str, Job] = {}
        self._messages: dict[str, Message] = {}
        self._clients = grid._clients
        for message in messages:
            device = grid._members[message.metadata.dst_node_id]
            records = message.content.array_records
            arrays = contents.of(records.get("arrays"))
            constants = contents.with_broadcast(records.get("preprocess"), records.get(ALGORITHM))
            work = to_work(message, grid._run_name, grid._clients[device], arrays, constants)
            query = message.metadata.message_type == MessageType.QUERY
            limit = _SUMMARY_BYTES if query else 2 * arrays.bytes + _SPARE_BYTES
            self._jobs[device] = Job(device, work, (arrays, constants), limit, until)
            self._messages[device] = message

    def replies(self) -> Iterator[Message]:
        """Replies as they arrive."""
        coordinator = self._coordinator
        inbox = coordinator.inbox
        inbox.clear({job.work.id for job in self._jobs.values()})
        _empty(coordinator.outcomes)
        kept = {device: result for device, job in self._jobs.items() if (result := inbox.get(job.work.id))}
        began = said = time.monotonic()
        coordinator.open([job for device, job in self._jobs.items() if device not in kept])
        waiting = set(self._jobs)
        for device, result in kept.items():  # complete before the coordinator was restarted
            waiting.discard(device)
            yield self._reply(Outcome(device, result.work, result))
        quorum_after: float | None = None
        while waiting:
            elapsed = time.monotonic() - began
            answered = len(self._jobs) - len(waiting)
            if quorum_after is None and answered >= self._quorum.needed(len(self._jobs)):
                quorum_after = elapsed
            lost = sum(coordinator.silent_for(device) > self._quorum.grace for device in waiting)
            if self._over(answered, lost, elapsed, quorum_after):
                break
            try:
                outcome = coordinator.outcomes.get(timeout=_TICK)
            except queue.Empty:
                said = self._say(waiting, said)
                continue
            if outcome.device in waiting and outcome.work == self._jobs[outcome.device].work.id:
                waiting.discard(outcome.device)
                yield self._reply(outcome)
        for device in waiting:
            silent = coordinator.silent_for(device)
            lost_now = silent > self._quorum.grace
            reason = f"lost: no sign of it for {silent:.0f} s" if lost_now else "late: the others were done"
            yield self._reply(Outcome(device, "", None, reason))

    @property
    def _deadline(self) -> float:
        own = self._quorum.deadline
        return own if self._timeout is None else min(self._timeout, own)

    def _over(self, answered: int, lost: int, elapsed: float, quorum_after: float | None) -> bool:
        asked = len(self._jobs)
        if elapsed >= self._deadline and answered < self._quorum.needed(asked):
            raise RunError(
                f"{answered} of {asked} devices answered in {elapsed:.0f} s, the quorum is "
                f"{self._quorum.needed(asked)}; see that they are on, then resume the run"
            )
        return self._quorum.over(
            asked=asked, answered=answered, lost=lost, elapsed=elapsed, quorum_after=quorum_after
        )

    def _reply(self, outcome: Outcome) -> Message:
        message = self._messages[outcome.device]
        if outcome.result is None:
            log.warning("%s: %s", outcome.device, outcome.reason)
            return Message(Error(CLIENT_FAILED, f"{outcome.device}: {outcome.reason}"), reply_to=message)
        client = self._clients[outcome.device]
        content = self._coordinator.inbox.content(outcome.work)
        return to_reply(message, outcome.result, client, content, outcome.transfers)

    def _say(self, waiting: set[str], said: float) -> float:
        now = time.monotonic()
        if now - said < _SAY_EVERY:
            return said
        away = sorted(set(waiting) - set(self._coordinator.connected()))
        names = ", ".join(away[:5]) + (" ..." if len(away) > 5 else "")
        log.info("waiting for %d devices%s", len(waiting), f"; not connected: {names}" if away else "")
        return now


def node_id(device: str) -> int:
    """Flower's id of a device: from its name, so that it is the same in every run."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") >> 1 | 2


def _empty(outcomes: "queue.SimpleQueue[Outcome]") -> None:
    while True:
        try:
            outcomes.get_nowait()
        except queue.Empty:
            return
