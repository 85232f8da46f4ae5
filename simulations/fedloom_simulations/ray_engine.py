"""The ray engine: Flower's own simulation, for many processes or many machines (docs/scaling.md)."""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedloom_edge.errors import InputError, RunError
from fedloom_server.grids import GridWrapper

# Ray prints its workers' output and starts a dashboard unless told not to.
_RAY = {"logging_level": "CRITICAL", "log_to_driver": False, "include_dashboard": False}
_POLL = 0.02


def run_on_ray(app: ClientApp, clients: int, work: Callable[[Grid], None]) -> None:
    """Call `work` with a grid whose `clients` nodes run `app` on Ray, one core each.

    Ray's own variables choose where: RAY_ADDRESS names a cluster, without it this machine is used.
    Flower runs the coordinator in a thread; an error there is raised here. Ctrl-C stops it at its
    next message and is raised when it has stopped, so that nobody else writes to the run's store.

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_simulation(coordinator.app(), app, num_supernodes=clients, backend_config=resources)
    except KeyboardInterrupt:
        coordinator.stop()
        raise
    except Exception:
        if coordinator.failure is None:
            raise
    finally:
        ray.shutdown()
    if coordinator.failure is not None:
        raise coordinator.failure


class _Coordinator:
    """The work of the coordinator in Flower's thread, which can be stopped from another."""

    def __init__(self, work: Callable[[Grid], None]) -> None:
        self.failure: BaseException | None = None
        self._work = work
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def app(self) -> ServerApp:
        """A ServerApp that does the work."""
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            self._idle.clear()
            try:
                self._work(_StoppableGrid(grid, self._stopping))
            except BaseException as error:
                self.failure = error
                raise
            finally:
                self._idle.set()

        return server

    def stop(self) -> None:
        """Stop the work at its next message and wait until it has."""
        self._stopping.set()
        self._idle.wait()


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
