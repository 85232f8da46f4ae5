"""What operators ask of a run while it goes on: pause, resume, stop, exclude and include a client.

A request is a row in the store's table `command`, written by the dashboard. The round loop takes it up
between rounds, so that a request never meets half a round.
"""

import time
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedloom_edge.errors import FedloomError
from fedloom_server.rounds.roster import OrderedGrid
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.registry import nodes_needed

_POLL = 0.1  # seconds between looks while paused


class Stopped(FedloomError):  # noqa: N818  (a request obeyed, not a mistake)
    """An operator stopped the run; it can be resumed."""

    exit_code = 130


class Operators:
    """Takes up what operators asked for, and writes down that it did: who, when, and what came of it."""

    def __init__(self, store: RunStore, grid: OrderedGrid, strategy: Strategy) -> None:
        self._store = store
        self._grid = grid
        self._least = nodes_needed(strategy)
        grid.excluded = set(store.facts().get("excluded", []))

    def obey(self, next_round: int) -> None:
        """Take up every open request; comes back when `next_round` may begin.

        Raises:
            Stopped: somebody asked for that.
        """
        paused = False
        while True:
            for command in self._store.open_commands():
                paused = self._take(command, next_round, paused)
            if not paused:
                return
            time.sleep(_POLL)

    def _take(self, command: dict[str, Any], number: int, paused: bool) -> bool:
        action, who, client = command["action"], command["who"], command["client"]
        told: dict[str, Any] = {"who": who, "asked": command["time"]}
        facts: dict[str, Any] = {}
        if action in ("pause", "resume"):
            paused = action == "pause"
            facts["status"] = "paused" if paused else "running"
        elif action in ("exclude", "include"):
            told["refused"] = self._change(action, client)
            facts["excluded"] = sorted(self._grid.excluded)
        with self._store.transaction():
            self._store.set_facts(facts)
            self._store.event(action, round_number=number, client=client, **told)
            self._store.take_command(command["id"])
        if action == "stop":
            raise Stopped(f"stopped before round {number} by {who}")
        return paused

    def _change(self, action: str, client: int) -> str:
        """Exclude or include a client; returns why not, or nothing."""
        if action == "include":
            self._grid.excluded.discard(client)
            return ""
        left = set(self._grid.clients.values()) - self._grid.excluded - {client}
        # A strategy with too few nodes waits for more without end.
        if len(left) < self._least:
            return f"the strategy needs {self._least} clients and {len(left)} would be left"
        self._grid.excluded.add(client)
        return ""
