"""What a client does around local training, in the order in which it does it. Needs numpy only.

An algorithm's client half, then privacy, then compression: each takes an update and gives one, and what
it must remember of a client is a part of that client's memory. The same under Flower's ClientApp and on
a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from fedloom_client.node import Node
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Assignment, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.compression import Compression, parse_codec

COMPRESS = "compress"
RUN = "run"
"""Key of the run's name among a device's settings: whose memory is meant."""
SETTINGS = ("training.", COMPRESS)
"""What the keys of a message's settings begin with."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the coordinator asks for beside training.

    Attributes:
        compress: a codec as `--compress` names it; empty for none.

    Raises:
        InputError: a codec is unknown.
    """

    compress: str = ""

    def __post_init__(self) -> None:
        if self.compress:
            parse_codec(self.compress)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The orders in a message's settings."""
        return cls(compress=str(config.get(COMPRESS, "")))

    def to_config(self) -> dict[str, str | int | float]:
        """Flat values for a message's settings; nothing where nothing is asked for."""
        return {COMPRESS: self.compress} if self.compress else {}


def train(
    node: Node, arrays: Arrays, constants: Arrays, assignment: Assignment, orders: Orders, memory: Arrays
) -> tuple[Update, Arrays]:
    """One round of one client.

    Args:
        node: the client.
        arrays: the global arrays.
        constants: of the task's preprocessing.
        assignment: of the trainer.
        orders: what else to do.
        memory: what this gave in the client's round before; empty at first.

    Returns:
        What is sent, and the new memory.
    """
    update = node.train(arrays, constants, assignment)
    if not orders.compress:
        return update, {}
    compression = Compression(parse_codec(orders.compress), node.trainer.statistics)
    seed = derive_seed(assignment.seed, COMPRESS)
    mine = _part(memory, COMPRESS)
    encoded, kept = compression.encode(arrays, update.arrays, mine, seed)
    return replace(update, arrays=encoded), _named(COMPRESS, kept)


def _part(memory: Arrays, owner: str) -> Arrays:
    start = f"{owner}/"
    return {name.removeprefix(start): a for name, a in memory.items() if name.startswith(start)}


def _named(owner: str, memory: Arrays) -> Arrays:
    return {f"{owner}/{name}": array for name, array in memory.items()}
