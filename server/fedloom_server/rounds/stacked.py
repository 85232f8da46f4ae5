"""Replies of many clients as one: what a grid gives whose clients train together in this process."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message

from fedloom_client.flower.messages import reply_content
from fedloom_client.flower.records import count_bytes
from fedloom_edge.arrays import Arrays


@dataclass(frozen=True)
class StackedReplies:
    """What K clients answer to messages of one phase. Nothing of it is copied.

    Attributes:
        questions: the messages that they answer.
        metrics: of each, as in a reply's MetricRecord, the same names for all.
        warnings: of each.
        arrays: (K, *shape) each; empty where they measured.
    """

    questions: Sequence[Message]
    metrics: Sequence[dict[str, Any]]
    warnings: Sequence[tuple[str, ...]]
    arrays: Arrays

    def message(self, k: int) -> Message:
        """One client's reply as if it had come alone."""
        question = self.questions[k]
        arrays = {name: stack[k] for name, stack in self.arrays.items()}
        content = reply_content(question, self.metrics[k], arrays, self.warnings[k])
        return Message(content, reply_to=question)

    def messages(self) -> Iterator[Message]:
        """Each client's reply."""
        return map(self.message, range(len(self.questions)))

    def sizes(self) -> list[int]:
        """Bytes of each client's reply."""
        return [_bytes(self.message(k)) if warned else self._size for k, warned in enumerate(self.warnings)]

    @cached_property
    def _size(self) -> int:
        """Bytes of a reply without warnings; numbers count alike."""
        content = reply_content(
            self.questions[0], self.metrics[0], {name: stack[0] for name, stack in self.arrays.items()}, ()
        )
        return sum(map(count_bytes, content.values()))


@runtime_checkable
class GivesStacks(Protocol):
    """A grid that can answer for many clients at once. A protocol, because other engines' nodes cannot."""

    def send_and_receive_stacked(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message | StackedReplies]:
        """As `send_and_receive`, replies together where they came together."""
        ...


def _bytes(message: Message) -> int:
    return sum(map(count_bytes, message.content.values()))
