"""Agents of `fedloom serve --local`: processes on this machine, kept running until they are stopped."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from fedloom_client.device.home import DeviceSettings, ShardOf, TrainerName
from fedloom_client.device.identity import Identity, new_request
from fedloom_edge.errors import RunError
from fedloom_server.fleet.fleet import Fleet

log = logging.getLogger("fedloom.link")

_POLL = 0.2
_PATIENCE = 10.0
_EARLY = 20.0
"""An agent that ends by itself within so many seconds has not come up."""
_TRIES = 4


@dataclass
class _Agent:
    home: Path
    process: "subprocess.Popen[bytes]"
    started: float
    failures: int = 0
    again: float = 0.0


class LocalAgents:
    """Starts agents, starts one again that ends by itself, and stops them all.

    One that does not come up is tried again after 1, 2 and 4 seconds, and then no more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._agents: list[_Agent] = []
        self._stopping = threading.Event()
        self._failure = ""
        self._watch = threading.Thread(target=self._keep_alive, daemon=True)

    def start(
        self,
        fleet: Fleet,
        coordinator: str,
        task: str,
        data: Path | None,
        shards: list[ShardOf],
        trainer: TrainerName,
    ) -> None:
        """Enrol one agent a shard and start it."""
        width = len(str(len(shards) - 1))
        for shard in shards:
            name = f"local-{shard.index:0{width}}"
            home = self._folder / name
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (home / "identity.pem").exists():
                key, request = new_request(name)
                certificate = fleet.registry.admit(name, request, fleet.authority)
                bundle = key + certificate.public_bytes(Encoding.PEM)
                Identity.of(bundle, fleet.authority.pem).save(home)
            DeviceSettings(
                coordinator=coordinator,
                task=task,
                data=str(data.absolute()) if data else "",
                trainer=trainer,
                shard=shard,
            ).save(home)
            self._agents.append(_Agent(home, _spawn(home), time.monotonic()))
        self._watch.start()

    def stop(self) -> None:
        """End every agent, at the latest after some seconds."""
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        for agent in self._agents:
            agent.process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for agent in self._agents:
            try:
                agent.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                agent.process.kill()
                agent.process.wait()

    def check(self) -> None:
        """Go on only if every agent can be started.

        Raises:
            RunError: one cannot, with the last that it said.
        """
        if self._failure:
            raise RunError(self._failure)

    def _keep_alive(self) -> None:
        while not self._stopping.wait(_POLL):
            for agent in self._agents:
                if agent.again:
                    if time.monotonic() >= agent.again:
                        agent.process, agent.started, agent.again = _spawn(agent.home), time.monotonic(), 0.0
                elif (code := agent.process.poll()) is not None and not self._failure:
                    self._ended(agent, code)

    def _ended(self, agent: _Agent, code: int) -> None:
        killed = code in (-signal.SIGKILL, -signal.SIGTERM)  # by somebody, and no fault of its own
        early = time.monotonic() - agent.started < _EARLY and not killed
        agent.failures = agent.failures + 1 if early else 0
        if agent.failures == _TRIES:
            path = agent.home / "agent.log"
            last = path.read_text(errors="replace").strip().rpartition("\n")[2]
            self._failure = (
                f"{agent.home.name} does not come up, ended {_TRIES} times ({code}): {last}; see {path}"
            )
            log.error("%s", self._failure)
            return
        log.warning("%s ended (%d); starting it again", agent.home.name, code)
        agent.again = time.monotonic() + (2.0 ** (agent.failures - 1) if early else 0.0)


def _spawn(home: Path) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "fedloom_edge.cli",
        "device",
        "run",
        "--home",
        str(home),
        "--with-parent",
        str(os.getpid()),
    ]
    with (home / "agent.log").open("ab") as output:
        # A session of its own: Ctrl-C on the terminal is for the coordinator, which stops its agents.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
