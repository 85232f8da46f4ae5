"""Who takes part: nodes in a fixed order, whatever order or ids an engine gives them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedloom_client.flower.records import from_record
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import RunError
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_server.rounds.stacked import GivesStacks, StackedReplies


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the federation.

    Attributes:
        node_id: the engine's id, which may differ from run to run.
        client: index of the node's shard, the same in every run.
        examples: in its training part.
        validation: examples in its validation part.
        summary: of its training part for the task's preprocessing; empty without one.
    """

    node_id: int
    client: int
    examples: int
    validation: int
    summary: Arrays


class _Consecutive(Mapping[int, int]):
    """Whole numbers under consecutive keys, without a table."""

    def __init__(self, first: int, values: Sequence[int] | NDArray[np.int64]) -> None:
        self._first, self._values = first, values

    def __getitem__(self, key: int) -> int:
        if not 0 <= (place := key - self._first) < len(self._values):
            raise KeyError(key)
        return int(self._values[place])

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._first, self._first + len(self._values)))

    def __len__(self) -> int:
        return len(self._values)


class Numbered(Sequence[Member]):
    """Members whose node ids are consecutive and who need no summary, made when they are asked for.

    Args:
        first: node id of client 0.
        examples: in the training part of each client (clients,).
        validation: examples in the validation part of each client (clients,).
    """

    def __init__(self, first: int, examples: NDArray[np.int64], validation: NDArray[np.int64]) -> None:
        self._first, self._examples, self._validation = first, examples, validation
        self.clients: Mapping[int, int] = _Consecutive(first, range(len(examples)))
        self.declared: Mapping[int, int] = _Consecutive(0, examples)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, client: int) -> Member: ...
    @overload
    def __getitem__(self, client: slice) -> Sequence[Member]: ...
    def __getitem__(self, client: int | slice) -> Member | Sequence[Member]:
        if isinstance(client, slice):
            return [self[index] for index in range(*client.indices(len(self)))]
        sizes = int(self._examples[client]), int(self._validation[client])
        return Member(self._first + client, client, *sizes, {})


@runtime_checkable
class KnowsMembers(Protocol):
    """A grid that knows its nodes' shards. A protocol, because other engines' nodes must be asked."""

    def members(self) -> Sequence[Member] | None:
        """All members in the order of their shards; None where they must be asked after all."""
        ...


@runtime_checkable
class DataGrows(Protocol):
    """A grid whose nodes may have more data after a break. A protocol: a simulation must have the same."""

    data_grows: bool


_PATIENCE = 120.0  # seconds for an engine's nodes to connect
_POLL = 0.05


def meet(grid: Grid, expected: int) -> Sequence[Member]:
    """Wait for `expected` nodes and ask each for its shard's index and size.

    Returns:
        Members in the order of their shards.

    Raises:
        RunError: nodes are missing, one cannot open its shard, or two have the same.
    """
    if isinstance(grid, KnowsMembers) and (known := grid.members()) is not None:
        return known
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in _connected(grid, expected)]
    members: dict[int, Member] = {}
    for reply in grid.send_and_receive(questions):
        if reply.has_error():
            raise RunError(f"a client cannot open its shard: {reply.error.reason}")
        facts: Any = reply.content.metric_records["metrics"]
        member = Member(
            node_id=reply.metadata.src_node_id,
            client=int(facts["partition-id"]),
            examples=int(facts["num-examples"]),
            validation=int(facts["validation-examples"]),
            summary=from_record(reply.content.array_records["summary"]),
        )
        members[member.client] = member
    if len(members) != expected:
        raise RunError(f"{len(members)} of {expected} clients answered; start the run again")
    return [members[client] for client in sorted(members)]


def _connected(grid: Grid, expected: int) -> list[int]:
    deadline = time.monotonic() + _PATIENCE
    while len(node_ids := list(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise RunError(f"{len(node_ids)} of {expected} clients connected in {_PATIENCE:g} s; start again")
        time.sleep(_POLL)
    return node_ids


class OrderedGrid(GridWrapper):
    """A grid whose nodes stand in the members' order.

    Flower's strategies sample from the list of nodes that a grid gives, so the same seed chooses the
    same clients only if that list does not depend on the engine.
    """

    def __init__(self, inner: Grid, members: Sequence[Member]) -> None:
        super().__init__(inner)
        self.clients: Mapping[int, int] = (
            members.clients
            if isinstance(members, Numbered)
            else {member.node_id: member.client for member in members}
        )
        self._nodes = list(self.clients)
        self.excluded: set[int] = set()
        self.left_out: set[int] = set()

    def get_node_ids(self) -> Iterable[int]:
        """Node ids in the order of their shards, without those excluded or left out for now."""
        if not (hidden := self.excluded | self.left_out):
            return self._nodes
        return [node for node in self._nodes if self.clients[node] not in hidden]

    def replies(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message | StackedReplies]:
        """Send messages; replies come together from a grid whose clients train together."""
        if isinstance(self.inner, GivesStacks):
            return self.inner.send_and_receive_stacked(messages, timeout=timeout)
        return self.inner.send_and_receive(messages, timeout=timeout)

    def node_of(self, client: int) -> int:
        """The node that has a client's shard."""
        if client < len(self._nodes) and self.clients[node := self._nodes[client]] == client:
            return node
        return next(node for node, other in self.clients.items() if other == client)

    def client_of(self, node_id: int) -> int:
        """Index of a node's shard."""
        return self.clients[node_id]
