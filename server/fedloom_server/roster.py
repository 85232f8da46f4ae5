"""Who takes part: nodes in a fixed order, whatever order or ids an engine gives them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedloom_client.records import from_record
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import RunError
from fedloom_server.grids import GridWrapper


@dataclass(frozen=True)
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


_PATIENCE = 120.0  # seconds for an engine's nodes to connect
_POLL = 0.05


def meet(grid: Grid, expected: int) -> list[Member]:
    """Wait for `expected` nodes and ask each for its shard's index and size.

    Returns:
        Members in the order of their shards.

    Raises:
        RunError: nodes are missing, one cannot open its shard, or two have the same.
    """
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
        self.clients = {member.node_id: member.client for member in members}
        self.excluded: set[int] = set()
        self.left_out: set[int] = set()

    def get_node_ids(self) -> Iterable[int]:
        """Node ids in the order of their shards, without those excluded or left out for now."""
        hidden = self.excluded | self.left_out
        return [node for node, client in self.clients.items() if client not in hidden]

    def node_of(self, client: int) -> int:
        """The node that has a client's shard."""
        return next(node for node, other in self.clients.items() if other == client)

    def client_of(self, node_id: int) -> int:
        """Index of a node's shard."""
        return self.clients[node_id]
