"""The ray engine: Flower's own simulation, for many processes or many machines (docs/scaling.md)."""

import logging
import threading
import warnings
from collections.abc import Callable

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedloom_edge.errors import InputError


def run_on_ray(app: ClientApp, clients: int, work: Callable[[Grid], None]) -> None:
    """Call `work` with a grid whose `clients` nodes run `app` on Ray, one core each.

    Ray's own variables choose where: RAY_ADDRESS names a cluster, without it this machine is used.
    Flower runs the coordinator in a thread; an error there, Ctrl-C included, is raised here.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray  # heavy, and an extra
    except ModuleNotFoundError as error:
        raise InputError("--engine ray needs Ray: pip install 'fedloom[ray]'") from error
    from flwr.simulation import run_simulation

    failures: list[BaseException] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            work(grid)
        except BaseException as error:
            failures.append(error)
            raise

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": _INIT}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_simulation(server, app, num_supernodes=clients, backend_config=resources)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        _stop_waiting()
        raise
    except Exception:
        if not failures:
            raise
    finally:
        ray.shutdown()
    if failures:
        raise failures[0]


# Ray prints its workers' output and starts a dashboard unless told not to.
_INIT = {"logging_level": "CRITICAL", "log_to_driver": False, "include_dashboard": False}


def _stop_waiting() -> None:
    """Let the process end although Flower's coordinator thread still waits for replies."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread._daemonic = True  # type: ignore[attr-defined]
