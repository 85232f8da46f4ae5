"""Agents that answer at once, to measure the link: `link_agents.py ADDRESS HOME...`, in one process."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.device.agent import Agent
from fedloom_client.device.identity import Identity
from fedloom_client.device.memory import Memory
from fedloom_client.device.node_worker import NodeWorker
from fedloom_client.node import Description
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.wire import CHUNK
from fedloom_protos.v1 import link_pb2 as pb

TASK, DIGEST = "idle", bytes(32)


class Idle:
    """A worker that takes no time: what it gives back has a new number in each chunk, so that all travels."""

    def __init__(self) -> None:
        self._given: dict[str, NDArray[Any]] = {}

    def describe(self) -> Description:
        """One example."""
        return Description(1, 1, {})

    def train(
        self,
        arrays: Mapping[str, NDArray[Any]],
        constants: Mapping[str, NDArray[Any]],
        assignment: Assignment,
    ) -> Update:
        """The arrays of the first time, a few numbers of each changed."""
        if {n: a.shape for n, a in self._given.items()} != {n: a.shape for n, a in arrays.items()}:
            self._given = {name: np.array(array) for name, array in arrays.items()}
        for array in self._given.values():
            array.reshape(-1)[:: CHUNK // array.itemsize] += 1
        return Update(self._given, 1, {"train-loss": 0.0})

    def evaluate(
        self, arrays: Mapping[str, NDArray[Any]], constants: Mapping[str, NDArray[Any]]
    ) -> Evaluation:
        """Nothing."""
        return Evaluation(0.0, {"accuracy": 0.0}, 1)


def _worker(home: Path) -> NodeWorker:
    return NodeWorker(Idle(), Memory(home / "memory"))


async def main(address: str, homes: list[str]) -> None:
    """Run an agent a home until this process is ended."""
    hello = pb.Hello(trainer="torch", task=TASK, task_digest=DIGEST)
    agents = [
        Agent(home, address, Identity.load(home), _worker(home), hello, note=lambda line: None)
        for home in map(Path, homes)
    ]
    await asyncio.gather(*(agent.run() for agent in agents))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
