"""Starts the dashboard beside a run, as a process of its own that ends with the run's."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedloom_edge.errors import RunError
from fedloom_server.dashboard.command import PORT

_PATIENCE = 30.0  # seconds for the server to come up
_GRACE = 5.0


@contextmanager
def dashboard_beside(folder: Path) -> Iterator[str]:
    """Serve a run's folder while the block lasts; yields the line with the link.

    The server watches its standard input, which closes when this process ends, however it ends.

    Raises:
        RunError: the server did not come up.
    """
    command = [sys.executable, "-m", "fedloom_edge.cli", "dashboard", str(folder), "--until-stdin-closes"]
    process = subprocess.Popen(
        [*command, "--port", str(PORT), "--any-port"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the run, which then ends the dashboard
    )
    assert process.stdin is not None and process.stdout is not None
    patience = threading.Timer(_PATIENCE, process.kill)
    patience.start()
    try:
        line = process.stdout.readline().strip()
        patience.cancel()
        if not line:
            raise RunError(f"the dashboard did not start; see {' '.join(command[2:4])} {folder}")
        yield line
    finally:
        patience.cancel()
        process.stdin.close()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def linger() -> None:
    """Keep the dashboard of a run that has ended until whoever sits at the terminal has seen enough."""
    if not sys.stdin.isatty():
        return
    sys.stdout.write("the dashboard stays open; Ctrl-C ends it\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        signal.pause()
