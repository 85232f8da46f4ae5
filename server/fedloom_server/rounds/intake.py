"""What is done with replies as they arrive: the guard looks at each, and what is good is taken in."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from flwr.app import Message

from fedloom_server.guard import quarantine
from fedloom_server.guard.guard import Finding, Guard
from fedloom_server.rounds.decoding import Decoder
from fedloom_server.rounds.open_round import OpenRound
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_server.strategies.composed import Composed
from fedloom_server.strategies.updates import Updates

if TYPE_CHECKING:
    from fedloom_server.rounds.federation import Federation


class Intake(Protocol):
    """Takes in the replies of a phase. A protocol, because the two phases keep different things."""

    def one(self, client: int, reply: Message, size: int) -> Finding:
        """Judge a reply of `size` bytes and keep it if it is good."""
        ...

    def many(self, clients: Sequence[int], stack: StackedReplies) -> list[Finding]:
        """Judge the replies of `clients` and keep the good ones."""
        ...


class TrainingIntake:
    """Hands good updates on to their mean or their list, and refused ones to quarantine."""

    def __init__(
        self, run: "Federation", opened: OpenRound, updates: Updates, suspects: quarantine.Suspects
    ) -> None:
        self._run, self._opened, self._updates, self._suspects = run, opened, updates, suspects
        self._guard = Guard(run.arrays, ("train-loss",), run.declared)
        self._decoder = Decoder(run.plan.orders.at_round(opened.number), run.arrays, run.trainer.statistics)

    def one(self, client: int, reply: Message, size: int) -> Finding:
        """Judge an update of `size` bytes and keep it if it is good."""
        finding = self._judged(client, reply)
        if finding.reason:
            self._refuse(client, reply, finding.reason, size)
        elif finding.norm is not None:
            self._updates.add(client, reply, finding.norm)
            self._suspects.add(client, lambda: reply, finding.norm)
        return finding

    def many(self, clients: Sequence[int], stack: StackedReplies) -> list[Finding]:
        """Judge the updates of `clients` and keep the good ones."""
        findings = self._guard.check_stack(stack, self._opened.number, clients)
        norms = {k: f.norm for k, f in enumerate(findings) if f.norm is not None and not f.reason}
        self._updates.add_stack(clients, stack, norms)
        for k in sorted(norms, key=lambda k: (norms[k], -clients[k]))[-quarantine.SUSPECTS :]:
            self._suspects.add(clients[k], partial(stack.message, k), norms[k])
        sizes = stack.sizes()
        for k, finding in enumerate(findings):
            if finding.reason:
                self._refuse(clients[k], stack.message(k), finding.reason, sizes[k])
        return findings

    def _judged(self, client: int, reply: Message) -> Finding:
        """The guard's finding on a reply, decoded first, and then the algorithm's own."""
        if undecodable := self._decoder.decode(reply):
            return Finding(undecodable)
        finding = self._guard.check_update(reply, self._opened.number, client)
        strategy = self._run.strategy
        if isinstance(strategy, Composed) and not finding.reason:
            return Finding(strategy.fault(reply, self._run.declared[client]), finding.norm)
        return finding

    def _refuse(self, client: int, reply: Message, reason: str, size: int) -> None:
        refused = quarantine.refused_on_arrival(client, reply, reason, size)
        store = self._run.store
        with store.transaction():
            quarantine.keep(store, self._opened.number, self._opened.attempt, [refused])


class MeasuringIntake:
    """Keeps good replies to `evaluate`.

    Attributes:
        replies: client -> how to make its reply.
    """

    def __init__(self, run: "Federation", number: int) -> None:
        self._guard, self._number = Guard(run.arrays), number
        self.replies: dict[int, Callable[[], Message]] = {}

    def one(self, client: int, reply: Message, size: int) -> Finding:
        """Judge a reply and keep it if it is good."""
        finding = self._guard.check_evaluation(reply, self._number)
        if not finding.reason:
            self.replies[client] = lambda: reply
        return finding

    def many(self, clients: Sequence[int], stack: StackedReplies) -> list[Finding]:
        """Judge the replies of `clients` and keep the good ones."""
        findings = self._guard.check_measured(stack, self._number)
        for k, (client, finding) in enumerate(zip(clients, findings, strict=True)):
            if not finding.reason:
                self.replies[client] = lambda k=k: stack.message(k)  # type: ignore[misc]
        return findings
