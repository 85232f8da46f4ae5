"""Where a device's work is done: one at a time, in a thread, apart from the link."""

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from fedloom_client.device.spool import Spool
from fedloom_client.wire import figures
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb


class WorkCancelledError(Exception):
    """The coordinator no longer waits for the work."""


class Watch:
    """What a worker asks and tells while it works.

    Args:
        until: when to end with what there is, by the monotonic clock; infinity for never.
        cancelled: whether nobody waits for the work any more.
        tell: is told (epoch, mean training loss).
    """

    def __init__(
        self, until: float, cancelled: Callable[[], bool], tell: Callable[[int, float], None]
    ) -> None:
        self.until = until
        self._cancelled = cancelled
        self._tell = tell

    def check(self) -> None:
        """Go on only if somebody waits for the work.

        Raises:
            WorkCancelledError: nobody does.
        """
        if self._cancelled():
            raise WorkCancelledError

    def progress(self, epoch: int, loss: float) -> None:
        """Tell how far the work is; raises as `check`."""
        self.check()
        self._tell(epoch, loss)

    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.until


class Worker(Protocol):
    """Does works. A protocol: a device trains on its own shard, a gateway has its devices train."""

    def do(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> tuple[pb.Result, Arrays]:
        """The result of a work on the arrays that came with it, and the arrays that go with the result."""
        ...

    def rest(self) -> None:
        """There was no work for a while: let go of what the next one can make anew."""
        ...


class Workshop:
    """Does one work at a time; what comes of it goes to the spool, or to a refusal."""

    def __init__(
        self,
        worker: Worker,
        spool: Spool,
        progress: Callable[[pb.Progress], None],
        done: Callable[[str, str], None],
    ) -> None:
        """`done(work, reason)` is called in the work's thread; without a result in the spool it says why."""
        self._worker = worker
        self._spool = spool
        self._progress = progress
        self._done = done
        self._cancelled: set[str] = set()

    def start(self, work: pb.Work, arrays: Arrays, constants: Arrays, until: float = math.inf) -> None:
        """Begin a work; the caller waits for `done` before it begins another.

        At `until` (by the monotonic clock) training ends with what it has.
        """

        def tell(epoch: int, loss: float) -> None:
            self._progress(pb.Progress(work=work.id, epoch=epoch, loss=loss))

        watch = Watch(until, lambda: work.id in self._cancelled, tell)
        # A daemon: a training step cannot be interrupted, and must not keep a stopped agent alive.
        threading.Thread(target=self._run, args=(work, arrays, constants, watch), daemon=True).start()

    def cancel(self, work: str) -> None:
        """Stop a work at its next epoch."""
        self._cancelled.add(work)

    def _run(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> None:
        reason, began = "", time.perf_counter()
        try:
            result, trained = self._worker.do(work, arrays, constants, watch)
            result.figures.extend(figures({"seconds": time.perf_counter() - began}))
            watch.check()
            self._spool.put(result, trained)
        except WorkCancelledError:
            reason = "cancelled: the coordinator no longer waits"
        except FedloomError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything)
            reason = f"{type(error).__name__}: {error}"
        self._cancelled.discard(work.id)
        self._done(work.id, reason[:1024])
        # Beside the sending: it takes as long on a slow card.
        self._spool.persist(work.id)
