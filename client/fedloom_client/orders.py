"""What a client does around local training, in the order in which it does it. Needs numpy only.

An algorithm's client half, then privacy, then compression: each takes an update and gives one, and what
it must remember of a client is a part of that client's memory. The same under Flower's ClientApp and on
a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from fedloom_client.algorithms.base import Algorithm, Work, named, part
from fedloom_client.algorithms.registry import make_algorithm, name_of
from fedloom_client.node import Node
from fedloom_client.noise import Noise
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_client.update_privacy import CLIPPED, PREFIX, UpdatePrivacy
from fedloom_edge.arrays import Arrays
from fedloom_edge.codecs import parse_codec
from fedloom_edge.compression import AUTO, Compression, codec_of_round, settle, signed

COMPRESS = "compress"
RUN = "run"
"""Key of the run's name among a device's settings: whose memory is meant."""
ALGORITHM = "algorithm"
"""Key of an algorithm's name, what the keys of its options begin with, and its part of a client's memory."""
PLAN = "plan"
"""Key of whether a device plans its round by what was measured on it."""
SETTINGS = ("training.", COMPRESS, ALGORITHM, PREFIX, "secure.", PLAN)
"""What the keys of a message's settings begin with."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the coordinator asks for beside training.

    Attributes:
        algorithm: whose client half to run; None for FedAvg's.
        compress: a codec as `--compress` names it; empty for none, `auto` for the device's own choice.
        privacy: what to do to an update before it is sent; None for nothing.
        plan: whether a device plans its batch size and steps for the round's deadline (`planner.plan`).

    Raises:
        InputError: a codec is unknown.
    """

    algorithm: Algorithm | None = None
    compress: str = ""
    privacy: UpdatePrivacy | None = None
    plan: bool = False

    def __post_init__(self) -> None:
        if self.compress not in ("", AUTO):
            parse_codec(self.compress)

    def at_round(self, number: int) -> Self:
        """The orders of one round."""
        if self.compress in ("", AUTO):
            return self
        return replace(self, compress=codec_of_round(self.compress, number))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The orders in a message's settings."""
        algorithm = None
        if name := str(config.get(ALGORITHM, "")):
            start = f"{ALGORITHM}."
            options = {key.removeprefix(start): v for key, v in config.items() if key.startswith(start)}
            algorithm = make_algorithm(name, options)
        compress, plan = str(config.get(COMPRESS, "")), bool(config.get(PLAN, 0))
        privacy = UpdatePrivacy.from_config(config)
        return cls(algorithm=algorithm, compress=compress, privacy=privacy, plan=plan)

    def to_config(self) -> dict[str, str | int | float]:
        """Flat values for a message's settings; nothing where nothing is asked for."""
        config: dict[str, str | int | float] = {COMPRESS: self.compress} if self.compress else {}
        if self.plan:
            config[PLAN] = 1
        if self.algorithm is not None:
            config[ALGORITHM] = name_of(self.algorithm)
            options = self.algorithm.options().items()
            config |= {f"{ALGORITHM}.{key}": value for key, value in options if value != ""}
        return config


def asks_to_train_only(config: Mapping[str, Any]) -> bool:
    """Whether a message's settings order nothing beside training or measuring."""
    return not any(key in (ALGORITHM, COMPRESS) or key.startswith(PREFIX) for key in config)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What came with a message, and what the client kept.

    Attributes:
        arrays: the global arrays.
        broadcast: what an algorithm's server half sends beside them.
        constants: of the task's preprocessing.
        memory: what `train` gave in the client's round before; empty at first.
    """

    arrays: Arrays
    broadcast: Arrays
    constants: Arrays
    memory: Arrays


def train(
    node: Node, given: Given, assignment: Assignment, orders: Orders, chosen: str = ""
) -> tuple[Update, Arrays]:
    """One round of one client: what is sent, and what it keeps for its next round.

    Where the orders leave the codec to the device it is `chosen`.

    Raises:
        TrainingError: training could not go on.
    """
    memory: Arrays = {}
    if orders.algorithm is None:
        update = node.train(given.arrays, given.constants, assignment)
    else:
        update, mine = orders.algorithm.fit(_work(node, given, assignment))
        memory |= named(ALGORITHM, mine)
    if orders.privacy is not None:
        source = Noise(None if assignment.secret else derive_seed(assignment.seed, PREFIX))
        arrays, clipped = orders.privacy.apply(given.arrays, update.arrays, source)
        update = replace(update, arrays=arrays, metrics={**update.metrics, CLIPPED: float(clipped)})
    before = part(given.memory, COMPRESS)
    if codec := chosen if orders.compress == AUTO else orders.compress:
        compression = Compression(parse_codec(codec), node.trainer.statistics)
        seed = derive_seed(assignment.seed, COMPRESS)
        encoded, kept = compression.encode(given.arrays, update.arrays, before, seed)
        update = replace(update, arrays=signed(encoded, codec) if orders.compress == AUTO else encoded)
        memory |= named(COMPRESS, kept)
    elif before:
        update = replace(update, arrays=settle(update.arrays, before))
    return update, memory


def evaluate(node: Node, given: Given, orders: Orders) -> Evaluation:
    """Measure the arrays that the client itself uses on its validation part."""
    arrays = given.arrays
    if orders.algorithm is not None:
        arrays = orders.algorithm.personal(_work(node, given, _NO_TRAINING))
    return node.evaluate(arrays, given.constants)


_NO_TRAINING = Assignment(training=Training(), seed=0)


def _work(node: Node, given: Given, assignment: Assignment) -> Work:
    shard = node.shard(given.constants)
    return Work(
        arrays=given.arrays,
        broadcast=given.broadcast,
        memory=part(given.memory, ALGORITHM),
        assignment=assignment,
        examples=len(shard.train),
        statistics=node.trainer.statistics,
        fit=lambda arrays, job: node.trainer.fit(arrays, shard, job),
        loss=lambda arrays: node.trainer.evaluate(arrays, shard.train).loss,
    )
