"""One attempt at a round under secure aggregation: who takes part, the sum, and what is taken off it."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from fedloom_client.flower.messages import ROUND
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.secure.concealing import CLIENTS, CLIP, HEAVIEST
from fedloom_client.secure.flower import OWN, QUESTION
from fedloom_client.secure.masks import KEY_BYTES
from fedloom_client.secure.participant import (
    KEYS,
    MASKED,
    PRESENT,
    SEALED,
    SEALED_BYTES,
    SEED,
    SESSION,
    SHARES,
    STEP,
    THRESHOLD,
    to_bits,
)
from fedloom_client.secure.ring import Ring, Total
from fedloom_client.secure.shamir import SHARE_BYTES
from fedloom_client.seeds import derive_seed
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import RunError
from fedloom_server.guard.guard import GROWTH, Finding, Guard
from fedloom_server.rounds.open_round import OpenRound
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_server.secure.graph import connected, degree, neighbours, threshold
from fedloom_server.secure.settings import LEAST
from fedloom_server.secure.unmasking import Keyring, UnmaskingError

if TYPE_CHECKING:
    from fedloom_server.rounds.federation import Federation


@dataclass
class Session:
    """Asks clients for keys and shares, adds up what they send under masks, and takes the masks off.

    The coordinator holds one vector, whatever the number of clients. It is an `Intake`.

    Attributes:
        lost: client -> why it was not asked for an update.
    """

    run: "Federation"
    opened: OpenRound
    lost: dict[int, str] = field(default_factory=dict[int, str])

    def __post_init__(self) -> None:
        self._name = secrets.token_hex(16)
        self._in_sum: set[int] = set()

    def agree(self, messages: Sequence[Message]) -> list[Message]:
        """Steps 1 and 2 with the clients of these `train` messages.

        Returns:
            The messages to those who may send an update, with what they need for it; none where too few
            are left.
        """
        run, opened = self.run, self.opened
        asked = [run.roster.client_of(message.metadata.dst_node_id) for message in messages]
        advertised = self._step("keys", {client: ({}, {}) for client in asked})
        keys = {
            client: arrays[KEYS][0]
            for client, arrays in sorted(advertised.items())
            if self._shaped(client, arrays, KEYS, (1, 2, KEY_BYTES))
        }
        if len(keys) < LEAST:
            return []
        assert run.plan.secure is not None
        near = degree(len(keys), run.plan.secure.dropouts)
        seed = derive_seed(run.plan.seed, opened.number, opened.attempt)
        graph = neighbours(list(keys), near, seed)
        answers = self._step(
            "shares",
            {
                client: (
                    {THRESHOLD: threshold(len(others))},
                    {KEYS: np.stack([keys[other] for other in others])},
                )
                for client, others in graph.items()
            },
        )
        self._keyring = Keyring(self._name, graph, {client: key[1].tobytes() for client, key in keys.items()})
        for client, arrays in sorted(answers.items()):
            sealed = self._shaped(client, arrays, SEALED, (len(graph[client]), SEALED_BYTES))
            if sealed and self._shaped(client, arrays, SEED, (KEY_BYTES,)):
                self._keyring.add(client, arrays[SEED].tobytes(), arrays[SEALED])
        if len(self._keyring.sharing) < LEAST:
            return []
        self._prepare_sum()
        return self._ordered(
            [(c, m) for c, m in zip(asked, messages, strict=True) if c in self._keyring.sharing]
        )

    def one(self, client: int, reply: Message, size: int) -> Finding:
        """Judge the form of a masked update, and add it to the sum."""
        finding = self._guard.check_masked(reply, self.opened.number)
        if not finding.reason:
            self._sum += from_record(reply.content.array_records["arrays"])[MASKED]
            self._in_sum.add(client)
        return finding

    def many(self, clients: Sequence[int], stack: StackedReplies) -> list[Finding]:
        """Refuse updates in the open."""
        return [Finding("secure: the update is not masked")] * len(clients)

    def unmask(self) -> Total:
        """Step 4 with those whose updates are in the sum.

        Raises:
            UnmaskingError: the sum cannot be known, or must not.
            RunError: it is known, and is no sum of updates.
        """
        ring, left, graph = self._keyring, self._in_sum, self._keyring.graph
        if len(left) < LEAST:
            raise UnmaskingError(f"a sum of {len(left)} updates would give them away, {LEAST} are needed")
        if not connected(graph, left):
            raise UnmaskingError("the clients that are left share no masks between two groups of them")
        questions = {
            client: (
                {PRESENT: to_bits([k for k, other in enumerate(graph[client]) if other in left])},
                {SEALED: ring.sealed_for(client)},
            )
            for client in sorted(left)
        }
        answers = self._step("unmask", questions)
        shares = {
            client: arrays[SHARES]
            for client, arrays in answers.items()
            if self._shaped(client, arrays, SHARES, (1 + len(graph[client]), SHARE_BYTES))
        }
        ring.take_off(self._sum, left, shares)
        gone = len(ring.sharing) - len(left)
        self.opened.note("secure", updates=len(left), recovered=gone, answers=len(shares))
        try:
            return self._ring.decode(self._sum)
        except ValueError as error:  # not to be repeated: see `phases`
            raise RunError(f"round {self.opened.number}: {error}: somebody sent what is no update") from None

    def _prepare_sum(self) -> None:
        run = self.run
        assert run.plan.secure is not None
        alike = getattr(run.strategy, "uniform_weights", False)
        self._ring = Ring(
            origin=run.arrays,
            statistics=run.trainer.statistics,
            clip=run.plan.secure.clip,
            heaviest=1 if alike else GROWTH * run.most_examples,
            clients=len(self._keyring.sharing),
        )
        form = np.broadcast_to(np.uint32(0), (self._ring.size,))
        self._guard = Guard({MASKED: form})
        self._sum = np.zeros(self._ring.size, np.uint32)

    def _ordered(self, chosen: Sequence[tuple[int, Message]]) -> list[Message]:
        """`train` messages with the session's settings, and in a record of its own what is a client's own.

        Settings that were one record stay one: a grid trains those together who share them.
        """
        sharing, graph = self._keyring.sharing, self._keyring.graph
        mine: dict[str, Any] = {
            SESSION: self._name,
            CLIP: self._ring.clip,
            HEAVIEST: self._ring.heaviest,
            CLIENTS: self._ring.clients,
        }
        shared: dict[int, ConfigRecord] = {}
        ordered = []
        for client, message in chosen:
            config = message.content.config_records["config"]
            if id(config) not in shared:
                shared[id(config)] = ConfigRecord({**config, **mine})
            present = to_bits([k for k, other in enumerate(graph[client]) if other in sharing])
            own = {"config": shared[id(config)], OWN: ConfigRecord({PRESENT: present})}
            metadata = message.metadata
            content = RecordDict({**message.content, **own})
            ordered.append(
                Message(content, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id)
            )
        return ordered

    def _step(self, step: str, questions: Mapping[int, tuple[dict[str, Any], Arrays]]) -> dict[int, Arrays]:
        """Ask clients, each with its settings and arrays; gives the answers, in the order of arrival."""
        messages = list(self._questions(step, questions))
        self.opened.traffic.sent(messages)
        answers: dict[int, Arrays] = {}
        for reply in self.run.roster.replies(messages, timeout=self.run.plan.deadline):
            if isinstance(reply, StackedReplies):
                continue
            client = self.run.roster.clients.get(reply.metadata.src_node_id)
            if client is None or client not in questions or client in answers:
                continue
            if reply.has_error():
                self.lost[client] = reply.error.reason or f"error code {reply.error.code}"
            elif "arrays" in reply.content.array_records:
                self.opened.traffic.received(reply)
                answers[client] = from_record(reply.content.array_records["arrays"])
        for client in questions.keys() - answers.keys():
            self.lost.setdefault(client, f"secure: no answer when asked for {_WORDS[step]}")
        return answers

    def _questions(
        self, step: str, questions: Mapping[int, tuple[dict[str, Any], Arrays]]
    ) -> Iterator[Message]:
        for client, (settings, arrays) in questions.items():
            config = {STEP: step, SESSION: self._name, ROUND: self.opened.number, **settings}
            content = RecordDict({"config": ConfigRecord(config)})
            if arrays:
                content["arrays"] = to_record(arrays)
            yield Message(content, self.run.roster.node_of(client), QUESTION)

    def _shaped(self, client: int, arrays: Arrays, name: str, shape: tuple[int, ...]) -> bool:
        array: NDArray[Any] | None = arrays.get(name)
        if array is not None and array.dtype == np.uint8 and array.shape == shape:
            return True
        self.lost[client] = f"secure: {name} is missing or has another shape than {shape}"
        return False


_WORDS = {"keys": "keys", "shares": "shares of its secrets", "unmask": "shares of others' secrets"}
