"""The works of the phase that is going on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedloom_client.wire import Content
from fedloom_protos.v1 import link_pb2 as pb


@dataclass
class Job:
    """One work for one device.

    Attributes:
        device: its name.
        work: as it is offered, each time with the same id.
        contents: where the chunks of its arrays and constants are.
        limit: most bytes of arrays that its result may have.
        until: when the coordinator no longer waits, by the monotonic clock.
    """

    device: str
    work: pb.Work
    contents: tuple[Content, Content]
    limit: int
    until: float = math.inf

    def offer(self) -> pb.Work:
        """The work with the time that is left for it; the time is no part of its id."""
        if self.until < math.inf:
            self.work.seconds = max(self.until - time.monotonic(), 0.1)
        return self.work

    def chunk(self, digest: bytes) -> bytes:
        """A chunk that the device asks for.

        Raises:
            LinkError: it was not offered.
        """
        arrays, constants = self.contents
        return (arrays if digest in arrays else constants).chunk(digest)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or the reason why there is none."""

    device: str
    work: str
    result: pb.Result | None
    reason: str = ""


Deliver = Callable[[Outcome], None]
