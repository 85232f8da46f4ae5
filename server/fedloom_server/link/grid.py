"""LinkGrid: Flower's Grid over devices, so that every strategy and the round loop run unchanged."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from flwr.app import Error, Message, MessageType
from flwr.serverapp import Grid

from fedloom_client.flower.messages import CLIENT_FAILED
from fedloom_client.orders import ALGORITHM
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.exchange import Errand, exchange, gathered
from fedloom_server.link.jobs import Outcome
from fedloom_server.link.quorum import Quorum
from fedloom_server.link.records import DEVICES, MOST_DEVICES, Contents, Place, to_reply, to_work

log = logging.getLogger("fedloom.link")


class LinkGrid(Grid):
    """Pushes messages to devices and yields replies as they arrive.

    Args:
        coordinator: of the devices.
        quorum: when a phase is over.
        run: its id.
        check: called now and then while devices are waited for; may raise to end that.
    """

    data_grows = True

    def __init__(
        self, coordinator: Coordinator, quorum: Quorum, run: str, check: Callable[[], None] = lambda: None
    ) -> None:
        adopt_identity()
        self._check = check
        self._coordinator = coordinator
        self._quorum = quorum
        self._run_name = run
        self._members: dict[int, str] = {}
        self._clients: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._pushed: dict[str, Message] = {}
        self._replies: dict[str, Message] = {}

    def gather(self, at_least: int, deadline: float) -> list[str]:
        """Wait until so many devices are connected; those connected then are the run's clients.

        Returns:
            Their names in the order of their client index: sorted, so the same fleet has the same order.

        Raises:
            RunError: too few came in `deadline` seconds.
        """
        devices = gathered(self._coordinator, at_least, deadline, self._check)
        self.enlist(devices)
        return devices

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
        asked = {self._members[message.metadata.dst_node_id]: message for message in messages}
        works = self._works(asked)
        deadline = self._quorum.deadline if timeout is None else min(timeout, self._quorum.deadline)
        for outcome in exchange(self._coordinator, self._quorum, works, deadline, self._check):
            yield self._reply(asked[outcome.device], outcome)

    def _works(self, asked: Mapping[str, Message]) -> list[Errand]:
        contents, errands = Contents(), []
        places = list(accumulate((self._sizes.get(d, 1) for d in self._clients), initial=0))
        for device, message in asked.items():
            records = message.content.array_records
            arrays = contents.of(records.get("arrays"))
            constants = contents.with_broadcast(records.get("preprocess"), records.get(ALGORITHM))
            client = self._clients[device]
            place = Place(client, places[client], gateway=device in self._sizes)
            work = to_work(message, self._run_name, place, arrays, constants)
            errands.append(Errand(device, work, arrays, constants))
        return errands

    def _reply(self, message: Message, outcome: Outcome) -> Message:
        if outcome.result is None:
            log.warning("%s: %s", outcome.device, outcome.reason)
            return Message(Error(CLIENT_FAILED, f"{outcome.device}: {outcome.reason}"), reply_to=message)
        if message.metadata.message_type == MessageType.QUERY:
            self._note_size(outcome.device, outcome.result)
        client = self._clients[outcome.device]
        content = self._coordinator.inbox.content(outcome.work)
        return to_reply(message, outcome.result, client, content, outcome.transfers)

    def _note_size(self, device: str, result: pb.Result) -> None:
        """A gateway says how many devices it speaks for."""
        for figure in result.figures:
            if figure.name == DEVICES and 1 <= figure.value <= MOST_DEVICES:
                self._sizes[device] = int(figure.value)

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


def node_id(device: str) -> int:
    """Flower's id of a device: from its name, so that it is the same in every run."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") >> 1 | 2
