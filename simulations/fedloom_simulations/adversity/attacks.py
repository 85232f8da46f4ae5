"""The attack kit: clients that work against the model, the same ones for the same seed.

`--attack NAME:SHARE[:STRENGTH]`, for example `signflip:0.2` or `scale:0.2:10`. Attackers are real
clients with real data; they know the global model, and of updates their own and their accomplices'.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from flwr.app import Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedloom_client.flower.messages import ROUND
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.seeds import generator
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError, unknown
from fedloom_server.grids.wrapped import GridWrapper

STRENGTHS: Mapping[str, float] = {
    "signflip": 1.0,  # times the own update, against it
    "scale": 10.0,  # times the own update, against it
    "noise": 10.0,  # norm of the noise over that of the own update
    "alie": 0.0,  # standard deviations; 0 for the paper's
    "ipm": 0.5,  # times the mean of the attackers' updates, against it
    "labelflip": 1.0,  # share of the examples
    "backdoor": 0.5,  # share of the examples
}
"""Default strength of each attack.

signflip: sends the opposite of what it learned. scale: the same, magnified, to replace the model
(Bagdasaryan et al., 2020, "How to backdoor federated learning"). noise: Gaussian noise. alie: the mean
of the attackers' updates, moved by as many standard deviations as the honest clients hide (Baruch et
al., 2019, "A little is enough", algorithm 3). ipm: Xie et al. (2019, "Fall of empires", eq. 5), with
the attackers' own mean for the honest one. labelflip trains on class C-1-y instead of y (Tolpegin et
al., 2020). backdoor trains a patch in the corner of images to mean class 0 (Gu et al., 2017, "BadNets").
"""
POISONS = ("labelflip", "backdoor")
"""Attacks on the data; the others change updates."""
TOGETHER = ("alie", "ipm")
"""Attacks for which attackers look at each other's updates."""


@dataclass(frozen=True)
class Attack:
    """Who attacks, and how.

    Attributes:
        name: a key of `STRENGTHS`.
        share: of the clients, in (0, 1).
        strength: what it means depends on the attack.
        seed: of the choice of attackers and of noise.
    """

    name: str
    share: float
    strength: float
    seed: int

    @classmethod
    def parse(cls, text: str, seed: int) -> Self:
        """Read `NAME:SHARE[:STRENGTH]`.

        Raises:
            InputError: an unknown attack, or a figure out of its range.
        """
        name, _, rest = text.partition(":")
        if name not in STRENGTHS:
            raise unknown("attack", name, STRENGTHS)
        share, _, strength = rest.partition(":")
        try:
            parsed = cls(name, float(share), float(strength) if strength else STRENGTHS[name], seed)
        except ValueError:
            raise InputError(
                f"--attack {text}: write NAME:SHARE[:STRENGTH], for example {name}:0.2"
            ) from None
        if not (0 < parsed.share < 1 and math.isfinite(parsed.strength) and parsed.strength >= 0):
            raise InputError(f"--attack {text}: the share is between 0 and 1, the strength at least 0")
        return parsed

    def attackers(self, clients: int) -> frozenset[int]:
        """Indices of the clients that attack, at least one."""
        order = generator(self.seed, "attackers").permutation(clients)
        return frozenset(order[: max(round(self.share * clients), 1)].tolist())


class AttackedGrid(GridWrapper):
    """A grid on which attackers' updates are what the attack makes of them."""

    def __init__(self, inner: Any, attack: Attack, clients: int) -> None:
        super().__init__(inner)
        self._attack = attack
        self._clients = clients
        self._attackers = attack.attackers(clients)
        self._nodes: dict[int, int] = {}
        self._held = 0

    @property
    def settled(self) -> bool:
        """False while accomplices have trained and not all of their replies have been yielded."""
        return not self._held and super().settled

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Replies as they come; those of attackers who work together when all of them are in."""
        asked = sorted(messages, key=lambda m: self._nodes.get(m.metadata.dst_node_id) in self._attackers)
        together: list[Message] = []
        for reply in self.inner.send_and_receive(asked, timeout=timeout):
            node = reply.metadata.src_node_id
            kind = reply.metadata.message_type
            if not reply.has_error() and kind == MessageType.QUERY:
                facts: Any = reply.content.metric_records["metrics"]
                self._nodes[node] = int(facts["partition-id"])
            attacks = kind == MessageType.TRAIN and self._nodes.get(node) in self._attackers
            if reply.has_error() or not attacks:
                yield reply
            elif self._attack.name in TOGETHER:
                together.append(reply)
                self._held += 1
            else:
                yield from self._changed(asked[0], [reply])
        if together:
            for reply in self._changed(asked[0], together):
                self._held -= 1
                yield reply

    def _changed(self, question: Message, replies: list[Message]) -> list[Message]:
        origin = from_record(question.content.array_records["arrays"])
        config: Any = question.content.config_records["config"]
        replies = sorted(replies, key=lambda reply: self._nodes[reply.metadata.src_node_id])
        updates = [from_record(reply.content.array_records["arrays"]) for reply in replies]
        names = [self._nodes[reply.metadata.src_node_id] for reply in replies]
        made = craft(self._attack, origin, updates, names, int(config[ROUND]), self._clients)
        for reply, arrays in zip(replies, made, strict=True):
            reply.content["arrays"] = to_record(arrays)
        return replies


def attacking_client(attack: Attack, clients: int) -> Mod:
    """A mod for clients that attack each by itself, before anything hides what they send."""
    attackers = attack.attackers(clients)

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        client = int(context.node_config["partition-id"])
        if client not in attackers or reply.has_error():
            return reply
        config: Any = message.content.config_records["config"]
        origin, update = (from_record(m.content.array_records["arrays"]) for m in (message, reply))
        made = craft(attack, origin, [update], [client], int(config[ROUND]), clients)
        reply.content["arrays"] = to_record(made[0])
        return reply

    return mod


def craft(
    attack: Attack,
    origin: Arrays,
    updates: list[Arrays],
    clients: list[int],
    round_number: int,
    total: int,
) -> list[Arrays]:
    """What attackers send instead of their honest `updates` of the global arrays `origin`.

    `clients` are their indices, `total` is the number of clients in the federation.
    """
    deltas = [{name: array.astype(np.float64) - origin[name] for name, array in u.items()} for u in updates]
    strength = attack.strength
    if attack.name in ("signflip", "scale"):
        moved = [{name: -strength * d for name, d in delta.items()} for delta in deltas]
    elif attack.name == "noise":
        moved = [
            _noise(delta, strength, (attack.seed, "noise", round_number, client))
            for delta, client in zip(deltas, clients, strict=True)
        ]
    else:
        mean = {name: np.mean([d[name] for d in deltas], axis=0) for name in origin}
        if attack.name == "ipm":
            moved = [{name: -strength * m for name, m in mean.items()}] * len(deltas)
        else:
            z = strength or _alie_z(total, len(attack.attackers(total)))
            spread = {name: np.std([d[name] for d in deltas], axis=0) for name in origin}
            moved = [{name: mean[name] - z * spread[name] for name in origin}] * len(deltas)
    return [
        {name: (origin[name] + delta[name]).astype(origin[name].dtype) for name in origin} for delta in moved
    ]


def _noise(delta: Arrays, strength: float, seed: tuple[int | str, ...]) -> Arrays:
    draw = generator(*seed)
    noise = {name: draw.standard_normal(d.shape) for name, d in delta.items()}
    factor = strength * _norm(delta) / max(_norm(noise), 1e-12)
    return {name: factor * n for name, n in noise.items()}


def _norm(arrays: Arrays) -> float:
    return math.sqrt(sum(float(np.square(array).sum()) for array in arrays.values()))


def _alie_z(clients: int, attackers: int) -> float:
    """Standard deviations that stay inside what honest clients themselves show (Baruch et al., 2019)."""
    honest = clients - attackers
    needed = clients // 2 + 1 - attackers
    return NormalDist().inv_cdf(min(max((honest - needed) / honest, 0.5), 0.999))
