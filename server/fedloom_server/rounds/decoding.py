"""Encoded updates back into arrays, before the guard looks at them."""

from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from fedloom_client.flower.records import from_record, put_arrays, to_record
from fedloom_client.orders import Orders
from fedloom_edge.arrays import Arrays
from fedloom_edge.codecs import CompressionError, parse_codec
from fedloom_edge.compression import AUTO, Compression, read_signed


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
        codec = self.orders.compress
        if not codec or not isinstance(record := reply.content.get("arrays"), ArrayRecord):
            return ""
        if codec == AUTO and next(iter(record), "") in self.origin:
            return ""  # as it is; without reading it
        try:
            encoded = from_record(record)
            if codec == AUTO:
                codec, encoded = read_signed(encoded)
            compression = Compression(parse_codec(codec), self.statistics)
            put_arrays(reply.content, to_record(compression.decode(encoded, self.origin)))
        except (CompressionError, ValueError, TypeError, OSError, EOFError) as error:
            return f"encoding: {error}"
        return ""
