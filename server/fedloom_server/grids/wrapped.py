"""A grid around a grid: what a wrapper does not change is passed on."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid


@runtime_checkable
class PlansAhead(Protocol):
    """A grid that divides the work of a phase. A protocol, because devices work each for itself."""

    def expect(self, messages: Sequence[Message]) -> None:
        """Every message of the phase that follows, of which perhaps only some are sent.

        A round that goes on after a crash sends the rest; the work is divided as it was before.
        """
        ...


class GridWrapper(Grid):
    """Passes everything on to `inner`, another grid."""

    def __init__(self, inner: Grid) -> None:
        self.inner = inner

    def expect(self, messages: Sequence[Message]) -> None:
        """Tell a grid that divides work what a phase consists of."""
        if isinstance(self.inner, PlansAhead):
            self.inner.expect(messages)

    @property
    def settled(self) -> bool:
        """Whether every node that has worked has had its reply yielded: then a state is whole."""
        return self.inner.settled if isinstance(self.inner, GridWrapper) else True

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the connected nodes."""
        return self.inner.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and give the replies."""
        return self.inner.send_and_receive(messages, timeout=timeout)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns an id for each."""
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there, each given out once."""
        return self.inner.pull_messages(message_ids)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Flower's deprecated way to make a message."""
        return self.inner.create_message(*args, **kwargs)

    def set_run(self, run: Any) -> None:
        """Set the engine's run."""
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        """The engine's run."""
        return self.inner.run
