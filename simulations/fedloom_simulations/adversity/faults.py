"""The fault kit: clients that drop out, are slow, crash, send NaN or an old update; equal for equal seeds.

`--faults drop=0.3,slow=0.2:5s,crash=0.05,nan=0.02,stale=0.05`: each client draws anew in each round.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedloom_client.flower.messages import CLIENT_FAILED, ROUND
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.seeds import generator
from fedloom_edge.errors import InputError, unknown
from fedloom_server.grids.wrapped import GridWrapper

KINDS = ("drop", "slow", "crash", "nan", "stale")
_MEMORY = "stale-update"  # prefix of the records in Context.state


@dataclass(frozen=True)
class Faults:
    """Probabilities of faults in a round's training, at most one a client.

    Attributes:
        shares: kind -> probability, in [0, 1], 1 together at most.
        delay: seconds that a slow client takes longer.
        seed: of the draws, together with round, attempt and client.
    """

    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    delay: float = 0.0
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int) -> Self:
        """Read `KIND=SHARE[:SECONDSs]`, separated by commas.

        Raises:
            InputError: an unknown kind, or a share or a delay out of its range.
        """
        shares: dict[str, float] = {}
        delay = 0.0
        for part in text.split(","):
            kind, _, value = part.strip().partition("=")
            share, colon, seconds = value.partition(":")
            if kind not in KINDS:
                raise unknown("fault", kind, KINDS)
            if bool(colon) != (kind == "slow"):
                raise InputError(f"--faults {part}: write slow=SHARE:SECONDSs, and no seconds for others")
            shares[kind] = _number(part, share)
            delay = _number(part, seconds.removesuffix("s")) if colon else delay
        if max(shares.values()) > 1 or sum(shares.values()) > 1:
            raise InputError(f"--faults {text}: shares are from 0 to 1, and 1 together at most")
        return cls(shares, delay, seed)

    def of(self, round_number: int, attempt: int, client: int) -> str:
        """What befalls a client in a round; empty for nothing."""
        drawn = generator(self.seed, "fault", round_number, attempt, client).random()
        for kind in KINDS:
            share = self.shares.get(kind, 0.0)
            if drawn < share:
                return kind
            drawn -= share
        return ""


def _number(part: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"--faults {part}: {text!r} is no number") from None
    if not value >= 0:
        raise InputError(f"--faults {part}: give a number of at least 0")
    return value


class FaultyGrid(GridWrapper):
    """A grid on which messages get lost and clients are slow.

    Time is virtual: nobody waits for a slow client. It reports its delay, and where the round's
    deadline is shorter its reply is never seen.
    """

    def __init__(self, inner: Any, faults: Faults) -> None:
        super().__init__(inner)
        self._faults = faults
        self._clients: dict[int, int] = {}

    def expect(self, messages: Sequence[Message]) -> None:
        """Tell the grid below of what is not dropped."""
        super().expect([message for message in messages if self._fault(message) != "drop"])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send what is not dropped and whose reply will be in time; yield the replies."""
        late = timeout is not None and self._faults.delay >= timeout
        lost = ("drop", "slow") if late else ("drop",)
        sent = [message for message in messages if self._fault(message) not in lost]
        slow = {message.metadata.dst_node_id for message in sent if self._fault(message) == "slow"}
        for reply in self.inner.send_and_receive(sent, timeout=timeout):
            if reply.metadata.message_type == MessageType.QUERY and not reply.has_error():
                facts: Any = reply.content.metric_records["metrics"]
                self._clients[reply.metadata.src_node_id] = int(facts["partition-id"])
            if reply.metadata.src_node_id in slow and not reply.has_error():
                metrics: Any = reply.content.metric_records["metrics"]
                metrics["seconds"] = metrics.get("seconds", 0.0) + self._faults.delay
            yield reply

    def _fault(self, message: Message) -> str:
        client = self._clients.get(message.metadata.dst_node_id)
        if message.metadata.message_type != MessageType.TRAIN or client is None:
            return ""
        return self._faults.of(*_where(message), client)


def faulty_client(faults: Faults) -> Mod:
    """A mod for clients that crash, send a NaN, or send what they sent in an earlier round."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        number, attempt = _where(message)
        kind = faults.of(number, attempt, int(context.node_config["partition-id"]))
        if kind == "crash":
            return Message(Error(CLIENT_FAILED, "crashed (by --faults)"), reply_to=message)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        if kind == "nan":
            _poison(reply)
        if faults.shares.get("stale"):
            return _remembering(reply, context, message, stale=kind == "stale")
        return reply

    return mod


def _where(message: Message) -> tuple[int, int]:
    config: Any = message.content.config_records["config"]
    return int(config[ROUND]), int(config.get("attempt", 1))


def _poison(reply: Message) -> None:
    arrays = {name: array.copy() for name, array in from_record(reply.content["arrays"]).items()}  # type: ignore[arg-type]
    next(iter(arrays.values())).reshape(-1)[0] = np.nan
    reply.content["arrays"] = to_record(arrays)


def _remembering(reply: Message, context: Context, message: Message, *, stale: bool) -> Message:
    """Keep this update in the client's state; give the one that was there before if `stale`."""
    before = {
        name.removeprefix(f"{_MEMORY}/"): record
        for name, record in context.state.items()
        if name.startswith(_MEMORY)
    }
    for name in ("arrays", "metrics"):
        context.state[f"{_MEMORY}/{name}"] = reply.content[name]
    context.state[f"{_MEMORY}/{ROUND}"] = ConfigRecord({ROUND: _where(message)[0]})
    if stale and before:
        for name, record in before.items():
            reply.content[name] = record
    return reply
