"""fedloom's backends and what they are measured against: a plain loop, pooled training, Flower with Ray.

`python -m fedloom_simulations.benchmarks.peers SIDE WORKLOAD [ROUNDS]` runs one and prints the wall and the
processor seconds of each round as JSON; `benchmarks.simulators` runs all of them in turn. Shards, model,
optimiser, batch size and epochs are those of `fedloom simulate`, read from its own recipe; the peers use
nothing else of fedloom. All sides measure the model on the test set each round, none on the clients.
"""

import argparse
import copy
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloom_client.data.preprocess import prepare
from fedloom_client.data.shards import ShardRecipe
from fedloom_client.torch_trainer.losses import LOSSES
from fedloom_server.store.rows import Round
from fedloom_simulations.benchmarks.outside.run import PEERS
from fedloom_simulations.benchmarks.torch_optimiser import make_optimiser

OWN = str(Path(__file__).with_name("tasks.py"))


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        task: as `fedloom simulate` takes it.
        clients: how many; 0 for one per natural group.
        fraction: of them that trains, and that is measured, in a round.
        rounds: how many.
        partition: as `--partition`.
    """

    task: str
    clients: int
    rounds: int
    fraction: float = 1.0
    partition: str = "iid"

    @property
    def cohort(self) -> int:
        """Clients a round; 0 where they are as many as there are groups."""
        return max(int(self.clients * self.fraction), 1) if self.clients else 0


WORKLOADS = {
    "mlp": Workload(f"{OWN}:mlp", 100, 30),
    "flute": Workload(f"{OWN}:logistic", 1000, 100, 0.01),
    "digits": Workload("digits", 100, 10),
    "fashion": Workload("fashion", 100, 4, partition="dirichlet:0.3"),
    "pfl": Workload(f"{OWN}:cnn", 1000, 4, 0.05),
    "overhead": Workload(f"{OWN}:logistic50", 1000, 10),
    "activity": Workload("activity", 0, 5, partition="natural"),
    "stocks": Workload("stocks", 0, 4, partition="natural"),
    "sentiment": Workload("sentiment", 20, 2),
    "mobile": Workload(f"{OWN}:mobile", 20, 3),
    "ten-thousand": Workload(f"{OWN}:logistic", 10_000, 20, 0.1, "virtual:50"),
    "million": Workload(f"{OWN}:logistic", 1_000_000, 20, 0.001, "virtual:50"),
    **{
        f"scale-{clients}": Workload(f"{OWN}:logistic50", clients, rounds, partition="virtual:50")
        for clients, rounds in ((10, 30), (100, 10), (1000, 4), (10_000, 2))
    },
}


class Clock:
    """Wall and processor seconds of rounds, in this process; a watcher of fedloom's runs."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []
        self.start()

    def start(self) -> None:
        """A round begins."""
        self._began = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """A round ends, and the next begins."""
        wall, cpu = self._began
        self.laps.append((time.perf_counter() - wall, time.process_time() - cpu))
        self.start()

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, entry: Round) -> None:
        """A round ends; round 0 is start-up."""
        if entry.number:
            self.lap()
        self.start()


class Side:
    """The data and the model of a workload as tensors, and one client's training."""

    def __init__(self, workload: Workload) -> None:
        recipe = ShardRecipe(workload.task, None, workload.partition, workload.clients, 0)
        self.shards = recipe.open()
        self.task, train, test = self.shards.task, self.shards.data.train, self.shards.data.test
        if preprocess := self.task.preprocess:
            constants = preprocess.merge([preprocess.summarise(train)])
            train, test = (prepare(part, preprocess, constants) for part in (train, test))
        self.x, self.y = _tensors(train)
        self.test = _tensors(test)
        torch.manual_seed(0)
        self.model = self.task.model()

    def fit(self, indices: np.ndarray[Any, Any]) -> None:
        """Train the model on some samples, as `training` says."""
        settings, rows = self.task.training, torch.from_numpy(indices)
        optimiser = make_optimiser(self.model.parameters(), settings)
        self.model.train()
        for _ in range(settings.epochs):
            for batch in torch.split(rows[torch.randperm(len(rows))], settings.batch_size):
                if len(batch) > 1:
                    optimiser.zero_grad()
                    loss: Any = LOSSES[self.task.loss](self.model(self.x[batch]), self.y[batch])
                    loss.backward()
                    optimiser.step()

    @torch.no_grad()
    def measure(self) -> float:
        """The loss on the test set."""
        self.model.eval()
        outputs = torch.cat([self.model(part) for part in torch.split(self.test[0], 256)])
        return float(LOSSES[self.task.loss](outputs, self.test[1]))


def loop(workload: Workload) -> Clock:
    """Federated averaging as a plain loop over clients."""
    side, clock = Side(workload), Clock()
    for _ in range(workload.rounds):
        clock.start()
        start = copy.deepcopy(side.model.state_dict())
        mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
        cohort = random.sample(range(len(side.shards)), max(int(len(side.shards) * workload.fraction), 1))
        parts = [side.shards.parts(client)[0] for client in cohort]
        total = sum(map(len, parts))
        for part in parts:
            side.model.load_state_dict(start)
            side.fit(part)
            for name, value in side.model.state_dict().items():
                mean[name] += value * (len(part) / total)
        side.model.load_state_dict({name: value.to(start[name].dtype) for name, value in mean.items()})
        side.measure()
        clock.lap()
    return clock


def pooled(workload: Workload) -> Clock:
    """As many steps of the same batch size on one model: what the training alone must cost."""
    side, clock = Side(workload), Clock()
    for _ in range(workload.rounds):
        cohort = random.sample(range(len(side.shards)), max(int(len(side.shards) * workload.fraction), 1))
        indices = np.concatenate([side.shards.parts(client)[0] for client in cohort])
        clock.start()
        side.fit(indices)
        side.measure()
        clock.lap()
    return clock


def fedloom(workload: Workload, backend: str) -> Clock:
    """`fedloom simulate`, in one process on one thread, else in as many as it takes by itself."""
    from fedloom_simulations.collector import settling
    from fedloom_simulations.options import add_arguments

    with settling():
        from fedloom_simulations.session import run_session
        from fedloom_simulations.setup import prepare_run

    parser, clock = argparse.ArgumentParser(), Clock()
    add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        sets = [f"strategy.fraction_train={workload.fraction}", "strategy.fraction_evaluate=0"]
        options = [workload.task, "--clients", str(workload.clients), "--rounds", str(workload.rounds)]
        workers = 1 if torch.get_num_threads() == 1 else 0
        options += ["--partition", workload.partition, "--backend", backend, "--workers", str(workers)]
        options += ["--out", f"{folder}/run", *(word for setting in sets for word in ("--set", setting))]
        setup = prepare_run(parser.parse_args(options))
        if run_session(replace(setup, watchers=[clock])):
            raise SystemExit(1)
    return clock


def flower(workload: Workload) -> Clock:
    """Flower's simulation engine on Ray, as its own tutorials use it; one core a client."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server = ClientApp(), ServerApp()
    kept: dict[str, Side] = {}
    clock = Clock()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        side = kept.setdefault("side", Side(workload))
        side.model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        part = side.shards.parts(int(context.node_config["partition-id"]))[0]
        side.fit(part)
        figures = MetricRecord({"num-examples": len(part)})
        return Message(
            RecordDict({"arrays": ArrayRecord(side.model.state_dict()), "metrics": figures}), reply_to=message
        )

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        side = Side(workload)
        strategy = FedAvg(fraction_train=workload.fraction, fraction_evaluate=0.0, min_available_nodes=2)

        def measure(number: int, arrays: ArrayRecord) -> MetricRecord:
            side.model.load_state_dict(arrays.to_torch_state_dict())
            loss = side.measure()
            if number:
                clock.lap()
            clock.start()
            return MetricRecord({"loss": loss})

        first = ArrayRecord(side.model.state_dict())
        strategy.start(grid, first, num_rounds=workload.rounds, evaluate_fn=measure)

    clients = workload.clients or len(Side(workload).shards)
    run_simulation(server, client, num_supernodes=clients)
    clock.laps = [(wall, math.nan) for wall, _ in clock.laps]  # its work is done in other processes
    return clock


def outside(workload: Workload, peer: str) -> Clock:
    """Another simulator in an environment of its own."""
    from fedloom_simulations.benchmarks.outside.run import become

    side = Side(workload)
    training = side.task.training
    plain = training.optimizer == "sgd"
    become(
        peer,
        {
            "x": side.x.numpy(),
            "y": side.y.numpy(),
            "test_x": side.test[0].numpy(),
            "test_y": side.test[1].numpy(),
        },
        [side.shards.parts(client)[0] for client in range(len(side.shards))],
        {
            "task": side.task.name,
            "rounds": workload.rounds,
            "cohort": max(int(len(side.shards) * workload.fraction), 1),
            "lr": training.lr,
            "momentum": 0.0 if plain else training.momentum,
            "batch_size": training.batch_size,
            "epochs": training.epochs,
        },
    )


def _tensors(samples: Any) -> tuple[Tensor, Tensor]:
    x, y = samples.take(np.arange(len(samples)))
    return torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y))


SIDES: dict[str, Callable[[Workload], Clock]] = {
    "fedloom": lambda workload: fedloom(workload, "auto"),
    **{f"fedloom {name}": partial(fedloom, backend=name) for name in ("torch", "vmap", "onnx")},
    "loop": loop,
    "pooled": pooled,
    "flower": flower,
    **{peer: partial(outside, peer=peer) for peer in PEERS},
}


def main() -> None:
    """Run one side of one workload."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    name, workload = sys.argv[1], WORKLOADS[sys.argv[2]]
    if len(sys.argv) > 3:
        workload = replace(workload, rounds=int(sys.argv[3]))
    sys.stdout.write("\n" + json.dumps(SIDES[name](workload).laps) + "\n")


if __name__ == "__main__":
    main()
