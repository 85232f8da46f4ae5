"""The works of the phase that is going on."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedloom_client.frames import Parts
from fedloom_client.wire import Content
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.rounds.messages import DOWNLOAD, UPLOAD


@dataclass
class Job:
    """One work for one device.

    Attributes:
        device: its name.
        work: as it is offered, each time with the same id.
        contents: where the chunks of its arrays and constants are.
        limit: most bytes of arrays that its result may have.
        until: when the coordinator no longer waits, by the monotonic clock.
        offered: when it was first offered, on the monotonic clock; 0 before.
        fetched: when the last chunk of it that the device asked for was sent; 0 before.
        returned: when its result was announced; 0 before.
    """

    device: str
    work: pb.Work
    contents: tuple[Content, Content]
    limit: int
    until: float = math.inf
    offered: float = 0.0
    fetched: float = 0.0
    returned: float = 0.0

    def offer(self) -> pb.Work:
        """The work, with the time that is left for it; the time is no part of its id."""
        if self.until < math.inf:
            self.work.seconds = max(self.until - time.monotonic(), 0.1)
        self.offered = self.offered or time.monotonic()
        return self.work

    @property
    def transfers(self) -> dict[str, float]:
        """Seconds that the model took to the device and its result back, as metrics; call it at the end.

        The download is 0 where the device had the model already, as it does from evaluating it.
        """
        return {
            DOWNLOAD: max(self.fetched - self.offered, 0.0),
            UPLOAD: time.monotonic() - self.returned,
        }

    def chunk(self, digest: bytes) -> Parts:
        """Where a chunk is that the device asks for.

        Raises:
            LinkError: it was not offered.
        """
        arrays, constants = self.contents
        return (arrays if digest in arrays else constants).chunk(digest)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or the reason why there is none; with the result, `Job.transfers`."""

    device: str
    work: str
    result: pb.Result | None
    reason: str = ""
    transfers: Mapping[str, float] = field(default_factory=dict[str, float])


Deliver = Callable[[Outcome], None]
