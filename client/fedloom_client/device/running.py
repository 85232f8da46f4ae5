"""An agent's process: it runs until somebody stops it, and tells in a file what it does."""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fedloom_client.device.agent import Agent


class Status:
    """Keeps the agent's last line where `fedloom device status` finds it."""

    def __init__(self, home: Path, coordinator: str) -> None:
        self._path = home / "status.json"
        self._facts = {"pid": os.getpid(), "coordinator": coordinator}

    def note(self, line: str) -> None:
        """Log a line and keep it."""
        logging.getLogger("fedloom.device").info("%s", line)
        try:
            self._path.write_text(json.dumps({**self._facts, "time": time.time(), "state": line}))
        except OSError as error:  # a full disk is no reason to stop
            logging.getLogger("fedloom.device").warning("%s: %s", self._path, error.strerror)


def run_until_stopped(
    agent: Agent, status: Status, parent: int | None, last: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run an agent until SIGTERM or SIGINT comes, or until `parent` (a process) has ended.

    `last` is called at the end.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        guard = asyncio.create_task(follow(parent, agent.stop)) if parent else None
        await agent.run()
        if guard is not None:
            guard.cancel()

    asyncio.run(main())
    last()
    status.note("stopped")
    # A training step cannot be interrupted: do not wait for its thread.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def follow(parent: int, stop: Callable[[], None]) -> None:
    """Call `stop` once `parent` is no longer this process's parent.

    It is given by number: it may have ended while this process was still importing.
    """
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    stop()
