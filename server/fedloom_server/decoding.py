"""Encoded updates back into arrays, before the guard looks at them."""

from dataclasses import dataclass
from functools import cached_property

from flwr.app import Message

from fedloom_client.orders import Orders
from fedloom_client.records import from_record, to_record
from fedloom_edge.arrays import Arrays
from fedloom_edge.compression import Compression, CompressionError, parse_codec


@dataclass(frozen=True)
class Decoder:
    """Undoes what `orders` made of updates of the global arrays `origin`.

    Attributes:
        orders: what clients were asked for.
        origin: the arrays that they started from.
        statistics: names of arrays that are measured and not trained.
    """

    orders: Orders
    origin: Arrays
    statistics: frozenset[str]

    def decode(self, reply: Message) -> str:
        """Put the arrays that a reply stands for into it; gives the reason why that cannot be done."""
        if self._compression is None or "arrays" not in reply.content.array_records:
            return ""
        try:
            encoded = from_record(reply.content.array_records["arrays"])
            reply.content["arrays"] = to_record(self._compression.decode(encoded, self.origin))
        except (CompressionError, ValueError, TypeError, OSError, EOFError) as error:
            return f"encoding: {error}"
        return ""

    @cached_property
    def _compression(self) -> Compression | None:
        if not self.orders.compress:
            return None
        return Compression(parse_codec(self.orders.compress), self.statistics)
