"""Rounds on a simulated clock: synchronous, semi-synchronous, or asynchronous with a buffer.

Nobody waits: when a client is done is computed from its steps and its speed, so a run is the same for
the same seed, and a day of a slow fleet takes the minutes of its arithmetic.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedloom_client.flower.messages import ROUND
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.seeds import generator
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError
from fedloom_server.grids.clock import GetArrays, PutArrays
from fedloom_server.grids.wrapped import GridWrapper

Mode = Literal["sync", "semisync", "async"]
MODES: tuple[str, ...] = get_args(Mode)
_LONGEST = 4.0
"""Interval, over the usual one, from which a client weighs no more: the guard takes more for an outlier."""


@dataclass(frozen=True, kw_only=True)
class ClockSettings:
    """How fast clients are, and when a round is over.

    Attributes:
        slow: share of slow clients, in [0, 1].
        factor: how many times longer a slow client takes, at least 1.
        step: simulated seconds that a step takes on a client that is not slow, > 0.
        buffer: updates that make an asynchronous round, at least 1.
        period: simulated seconds of a semi-synchronous round; 0 for what the slowest of the clients that
            are not slow needs.
    """

    slow: float = 0.0
    factor: float = 10.0
    step: float = 0.01
    buffer: int = 10
    period: float = 0.0

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.factor, self.step, self.period)))
        if not (finite and 0 <= self.slow <= 1 and self.factor >= 1 and self.step > 0 and self.period >= 0):
            raise InputError(
                "--set clock: slow is from 0 to 1, factor at least 1, step above 0, period at least 0, all "
                "of them finite"
            )
        if self.buffer < 1:
            raise InputError(f"clock.buffer={self.buffer}: it must be at least 1")


@dataclass
class _Flight:
    """A client at work: since which round, until when, and what it was asked."""

    round: int
    finish: float
    message: Message


@dataclass
class _Now:
    """The phase that goes on: its round, and the clients whose updates make it, in the order of arrival."""

    number: int = 0
    due: dict[int, _Flight] = field(default_factory=dict[int, _Flight])


class ClockedGrid(GridWrapper):
    """A grid on which clients take simulated time.

    sync: a round takes as long as its slowest client. semisync: every client takes the steps that fit
    into a period (Stripelis & Ambite, 2021, "Semi-synchronous federated learning"). async: a client
    that is done is given the newest model at once; as soon as `buffer` updates are in, they make a
    round (Nguyen et al., 2022, "Federated learning with buffered asynchronous aggregation", algorithm 1).

    There an update weighs less the older it is, and clients are drawn anew. Here each is always at work,
    so the fast ones are heard more often, and would pull the model to their data. So an update weighs as
    much as rounds have passed since its client's last one (Wang & Ji, 2024, "A lightweight method for
    tackling unknown participation statistics in federated averaging", eq. 3 and its cutoff): over a long
    time every client counts by its examples, as in a synchronous round.

    An update of an older model is put on the newest one before the guard sees it. A client trains when
    its update is due, from the arrays that it was given: what a checkpoint must hold is who is at work
    since when, and those arrays.

    Attributes:
        time: simulated seconds since the run began.
    """

    def __init__(
        self, inner: Grid, mode: Mode, settings: ClockSettings, seed: int, statistics: frozenset[str]
    ) -> None:
        """`statistics` are the names of arrays that are measured and not trained."""
        super().__init__(inner)
        self.time = 0.0
        self._statistics = statistics
        self._mode, self._settings, self._seed = mode, settings, seed
        self._examples: dict[int, int] = {}
        self._clients: dict[int, int] = {}
        self._flights: dict[int, _Flight] = {}
        self._now = _Now()

    def expect(self, messages: Sequence[Message]) -> None:
        """Begin a phase: decide who is asked for what, and whose updates make the round."""
        if not messages or messages[0].metadata.message_type != MessageType.TRAIN:
            super().expect(messages)
            return
        number, by_node = _round_of(messages[0]), {m.metadata.dst_node_id: m for m in messages}
        if self._mode == "semisync":
            by_node = {node: self._cut(message) for node, message in by_node.items()}
        for node, message in by_node.items():
            if node not in self._flights:
                self._flights[node] = _Flight(number, self.time + self._seconds(message), message)
        due = sorted((self._flights[node].finish, node) for node in by_node)
        if self._mode == "async":
            due = due[: self._settings.buffer]
        self._now = _Now(number, {node: self._flights.pop(node) for _, node in due})
        self.time = max(self.time, due[-1][0])
        super().expect([flight.message for flight in self._now.due.values()])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies that are due in this phase; the other clients stay at work."""
        asked = list(messages)
        if not asked or asked[0].metadata.message_type != MessageType.TRAIN:
            for reply in self.inner.send_and_receive(asked, timeout=timeout):
                self._note_size(reply)
                yield reply
            return
        nodes = {message.metadata.dst_node_id for message in asked}
        late = self._mode == "async"
        due = [flight.message for node, flight in self._now.due.items() if node in nodes]
        current = from_record(asked[0].content.array_records["arrays"])
        for reply in self.inner.send_and_receive(due, timeout=timeout):
            if late and not reply.has_error():
                self._freshen(reply, current)
            yield reply

    def at_work(self) -> frozenset[int]:
        """Nodes that go on training after this phase."""
        return frozenset(self._flights)

    def clock_state(self, put: PutArrays) -> dict[str, Any]:
        """The time, and who is at work, as JSON values."""
        kept: dict[int, str] = {}
        flights = []
        for node, flight in sorted(self._flights.items()):
            content = flight.message.content
            if flight.round not in kept:
                kept[flight.round] = put(from_record(content.array_records["arrays"]))
            entry: dict[str, Any] = {"client": self._clients[node], "round": flight.round}
            entry |= {"finish": flight.finish, "arrays": kept[flight.round]}
            flights.append(entry | {"config": _config(flight.message)})
        return {"time": self.time, "flights": flights}

    def restore_clock(self, state: dict[str, Any], get: GetArrays, constants: Arrays) -> None:
        """Take over what `clock_state` gave; clients must have said their shard's index before."""
        self.time = state["time"]
        nodes = {client: node for node, client in self._clients.items()}
        records: dict[str, Any] = {}
        extra = {"preprocess": to_record(constants)} if constants else {}
        self._flights = {}
        for entry in state["flights"]:
            digest = entry["arrays"]
            if digest not in records:
                records[digest] = to_record(get(digest))
            content = RecordDict(
                {"arrays": records[digest], "config": ConfigRecord(entry["config"]), **extra}
            )
            node = nodes[entry["client"]]
            message = Message(content, node, MessageType.TRAIN)
            self._flights[node] = _Flight(entry["round"], entry["finish"], message)

    def _freshen(self, reply: Message, current: Arrays) -> None:
        """Put an update of an older model on the newest one, with the weight that its client has."""
        node = reply.metadata.src_node_id
        flight = self._now.due[node]
        reply.content[ROUND] = ConfigRecord({ROUND: self._now.number})
        origin = from_record(flight.message.content.array_records["arrays"])
        arrays = from_record(reply.content.array_records["arrays"])
        if {name: a.shape for name, a in arrays.items()} != {name: a.shape for name, a in origin.items()}:
            return  # the guard's to refuse
        scale = self._weight(node, 1 + self._now.number - flight.round) / self._share(node)
        with np.errstate(all="ignore"):
            for name, array in arrays.items():
                # Differences of a statistic do not add up: two of them can make a variance negative.
                start = current[name] if name in self._statistics else origin[name]
                moved = current[name] + scale * (array.astype(np.float64) - start)
                arrays[name] = moved.astype(array.dtype)
        reply.content["arrays"] = to_record(arrays)

    def _weight(self, node: int, interval: int) -> float:
        """Of a client's difference in the new model, `interval` rounds after its last one.

        Its share of all examples, times the interval over what it would be if all were equally fast.
        """
        clients = len(self._examples)
        usual = max(clients / self._settings.buffer, 1.0)
        share = self._examples[node] / sum(self._examples.values())
        return min(share * min(interval / usual, _LONGEST), 1.0)

    def _share(self, node: int) -> float:
        """What the strategy's mean by examples multiplies a client's update with."""
        return self._examples[node] / sum(self._examples[other] for other in self._now.due)

    def _seconds(self, message: Message) -> float:
        training = Training.from_config(_config(message))
        node = message.metadata.dst_node_id
        return training.most_steps(self._examples[node]) * self._step(node)

    def _step(self, node: int) -> float:
        slow = self._settings.factor if self._clients[node] in self._slow else 1.0
        return self._settings.step * slow

    @property
    def _slow(self) -> frozenset[int]:
        order = generator(self._seed, "slow clients").permutation(len(self._clients))
        return frozenset(order[: round(self._settings.slow * len(order))].tolist())

    def _cut(self, message: Message) -> Message:
        """A message that asks for the steps that fit into the period, at least one."""
        config = _config(message)
        training = Training.from_config(config)
        slow, step = self._slow, self._settings.step
        sizes = [n for node, n in self._examples.items() if self._clients[node] not in slow]
        period = self._settings.period or step * max(map(training.most_steps, sizes), default=1)
        node = message.metadata.dst_node_id
        steps = max(int(period / self._step(node) + 1e-9), 1)
        steps = min(steps, training.most_steps(self._examples[node]))
        content = RecordDict({**message.content, "config": ConfigRecord({**config, "training.steps": steps})})
        return Message(content, node, MessageType.TRAIN)

    def _note_size(self, reply: Message) -> None:
        if reply.metadata.message_type == MessageType.QUERY and not reply.has_error():
            facts: Any = reply.content.metric_records["metrics"]
            self._clients[reply.metadata.src_node_id] = int(facts["partition-id"])
            self._examples[reply.metadata.src_node_id] = int(facts["num-examples"])


def _config(message: Message) -> dict[str, Any]:
    return dict(message.content.config_records["config"])


def _round_of(message: Message) -> int:
    return int(_config(message)[ROUND])
