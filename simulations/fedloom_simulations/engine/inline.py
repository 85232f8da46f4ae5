"""The inline engine: every client in this process, one after the other, behind Flower's Grid."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedloom_server.grids.flower_ids import RUN_ID, adopt_identity

FIRST_NODE = 2
"""Id of the node that holds shard 0: Flower's coordinator is node 1."""


class InlineGrid(Grid):
    """A grid of `clients` nodes that run `app` in the caller's thread.

    A reply is yielded as soon as it is there, so that the coordinator can fold it in and forget it.
    """

    def __init__(self, app: ClientApp, clients: int) -> None:
        adopt_identity()
        self._app = app
        self._clients = clients
        self._contexts: dict[int, Context] = {}
        self._replies: dict[str, Message] = {}
        self._pushed = 0
        self._ran: set[int] = set()

    def get_node_ids(self) -> Iterable[int]:
        """The nodes; node `2 + i` holds shard `i`."""
        return range(FIRST_NODE, FIRST_NODE + self._clients)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Run each message's node and yield its reply. Nothing waits here, so `timeout` does not apply."""
        for message in messages:
            node = message.metadata.dst_node_id
            reply = self._app(message, self._context(node))
            self._ran.add(node)
            yield reply

    def changed_states(self) -> dict[int, RecordDict]:
        """The states of nodes that ran since the last call and have one."""
        ran, self._ran = self._ran, set()
        return {node: state for node in sorted(ran) if (state := self._context(node).state)}

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Give nodes their states; every other node starts without one."""
        self._contexts.clear()
        for node, state in states.items():
            self._context(node).state = state

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' nodes now; returns an id for each, to pull its reply with."""
        ids: list[str] = []
        for reply in self.send_and_receive(messages):
            self._pushed += 1
            ids.append(str(self._pushed))
            self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to pushed messages, each given out once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Flower's deprecated way to make a message."""
        raise NotImplementedError("create messages with flwr.app.Message")

    def set_run(self, run: Any) -> None:
        """There is one run in this process."""

    @property
    def run(self) -> Any:
        """There is no Flower run record here."""
        raise NotImplementedError("the inline engine keeps no Flower run record; see the run folder")

    def _context(self, node_id: int) -> Context:
        if node_id not in self._contexts:
            self._contexts[node_id] = make_context(node_id, self._clients, RecordDict())
        return self._contexts[node_id]


def make_context(node_id: int, clients: int, state: RecordDict) -> Context:
    """What Flower hands to a node's app: which of so many shards it has, and its state."""
    config = UserConfig({"partition-id": node_id - FIRST_NODE, "num-partitions": clients})
    return Context(RUN_ID, node_id, config, state, UserConfig({}))
