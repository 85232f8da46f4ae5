"""The ray engine: Flower's own simulation, for many processes or many machines (docs/scaling.md)."""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedloom_edge.errors import InputError, RunError
from fedloom_server.grids.wrapped import GridWrapper

# Ray prints its workers' output and starts a dashboard unless told not to.
_RAY = {"logging_level": "CRITICAL", "log_to_driver": False, "include_dashboard": False}
_POLL = 0.02


def run_on_ray(app: ClientApp, clients: int, work: Callable[[Grid], None]) -> None:
    """Call `work` with a grid whose `clients` nodes run `app` on Ray, one core each.

    Ray's own variables choose where: RAY_ADDRESS names a cluster, without it this machine is used.
    Flower runs the coordinator in a thread; an error there is raised here. Ctrl-C stops it at its
    next message and is raised when all has ended: raised in the middle of Ray's work it crashes Ray.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray  # heavy, and an extra
    except ModuleNotFoundError as error:
        raise InputError("--engine ray needs Ray: pip install 'fedloom[ray]'") from error
    from flwr.simulation import run_simulation

    coordinator = _Coordinator(work)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": _RAY}
    try:
        with warnings.catch_warnings(), coordinator.stopped_by_interrupts():
            warnings.simplefilter("ignore")
            run_simulation(coordinator.app(), app, num_supernodes=clients, backend_config=resources)
    except Exception:
        if coordinator.failure is None:
            raise
    finally:
        ray.shutdown()
    if coordinator.stopping.is_set():
        raise KeyboardInterrupt
    if coordinator.failure is not None:
        raise coordinator.failure


class _Coordinator:
    """The work of the coordinator in Flower's thread, which can be stopped from another."""

    def __init__(self, work: Callable[[Grid], None]) -> None:
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self._work = work

    def app(self) -> ServerApp:
        """A ServerApp that does the work."""
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            try:
                self._work(_StoppableGrid(grid, self.stopping))
            except BaseException as error:
                self.failure = error
                raise

        return server

    @contextmanager
    def stopped_by_interrupts(self) -> Iterator[None]:
        """Inside, Ctrl-C asks the work to stop and raises nothing."""
        before = signal.signal(signal.SIGINT, lambda *_: self.stopping.set())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _StoppableGrid(GridWrapper):
    """Gives replies as they come, where Flower's waits for all, and ends the wait when told to."""

    def __init__(self, inner: Grid, stopping: threading.Event) -> None:
        super().__init__(inner)
        self._stopping = stopping

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the connected nodes."""
        self._check()
        return self.inner.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages and yield each reply when it is there, for `timeout` seconds at most."""
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.inner.push_messages(messages))
        while waiting and (deadline is None or time.monotonic() < deadline):
            self._check()
            for reply in self.inner.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            time.sleep(_POLL)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise RunError("the run was stopped")
