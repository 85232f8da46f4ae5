"""Clients of a phase, trained or measured in this process, by any backend."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedloom_client.data.preprocess import prepare
from fedloom_client.data.samples import Indices, Samples, Shard, View
from fedloom_client.data.shards import ShardRecipe
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.torch_trainer.isolation import reproducible
from fedloom_client.torch_trainer.tensors import Fetch
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.errors import FedloomError, TrainingError
from fedloom_simulations.engine.graph_training import GraphTraining
from fedloom_simulations.engine.vectorised.evaluating import evaluate_stacked
from fedloom_simulations.engine.vectorised.fitting import Outcome, Pupil, Rows, fit_stacked
from fedloom_simulations.engine.vectorised.schedule import chunks
from fedloom_simulations.engine.vectorised.size import Room, room_for

Allocate = Callable[[Arrays, int], Arrays]
"""(arrays of one client, K) -> room for those of K clients, (K, ...) each."""
_SEEN = 65_536  # clients whose parts are remembered
_MEASURED = 4_096  # validation examples that are measured together
# What a process is given at a time where clients train one by one: at most so many clients, so large a
# part of all, and so many bytes of arrays.
_HANDED, _PART, _HANDED_BYTES = 16, 1 / 32, 64_000_000


@dataclass(frozen=True)
class Phase:
    """What the clients of a phase have in common.

    Attributes:
        arrays: the global arrays.
        constants: of the preprocessing.
        training: settings; None to measure.
        proximal_mu: FedProx's coefficient.
        backend: torch, vmap or onnx.
    """

    arrays: Arrays
    constants: Arrays
    training: Training | None = None
    proximal_mu: float = 0.0
    backend: str = "torch"


Job = list[tuple[int, int]]
"""Clients that are worked on together, each with its seed."""


@dataclass
class Row:
    """What became of one client: figures, or the reason why it failed."""

    client: int
    examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    warnings: tuple[str, ...] = ()
    loss: float = 0.0
    seconds: float = 0.0
    error: str = ""


class Cohort:
    """The clients of a recipe, none of which exists before it is asked for."""

    def __init__(self, recipe: ShardRecipe) -> None:
        self.shards = recipe.open()
        self.task = self.shards.task
        self.trainer = TorchTrainer(self.task)
        self.troubles: list[str] = []
        self._parts: dict[int, tuple[Indices, Indices]] = {}
        self._prepared: tuple[str, Samples] | None = None
        self._rooms: dict[int, Room] = {}
        self._graphs = GraphTraining(self.task)

    def plan(self, phase: Phase, clients: Job) -> list[Job]:
        """Cut a phase into jobs. It depends on the phase alone, and so do results."""
        if phase.training is None:
            return self._measuring(clients, together=phase.backend != "torch")
        examples = [len(self.parts(client)[0]) for client, _ in clients]
        if phase.backend != "vmap":
            order = np.argsort(examples, kind="stable")[::-1]  # the longest first, to end together
            return handed(phase.arrays, [clients[i] for i in order])
        most = self.room(phase).clients
        return [[clients[i] for i in chunk] for chunk in chunks(examples, phase.training, most)]

    def prepare(self, phase: Phase) -> None:
        """Make all data ready, so that worker processes that are forked now share it."""
        self._fetch(phase.constants)

    def train(self, phase: Phase, job: Job, out: Arrays) -> list[Row]:
        """Train the clients of a job and write their arrays (K, ...) to `out`."""
        began = time.perf_counter()
        rows = self._train_stacked(phase, job, out)
        whole = [
            self._train_one(phase, client, seed, part_of(out, k)) if row is None else row
            for k, ((client, seed), row) in enumerate(zip(job, rows, strict=True))
        ]
        seconds = (time.perf_counter() - began) / len(job)
        for row in whole:
            row.seconds = seconds
        return whole

    def evaluate(self, phase: Phase, job: Job) -> list[Row]:
        """Measure the global arrays on the validation parts of a job's clients."""
        began = time.perf_counter()
        parts = [self.parts(client)[1] for client, _ in job]
        try:
            found = self._evaluations(phase, parts)
        except Exception as error:  # noqa: BLE001  (a user's model or metric may raise anything)
            return [Row(client, error=f"{type(error).__name__}: {error}") for client, _ in job]
        seconds = (time.perf_counter() - began) / len(job)
        return [
            Row(client, result.examples, dict(result.metrics), loss=result.loss, seconds=seconds)
            for (client, _), result in zip(job, found, strict=True)
        ]

    def parts(self, client: int) -> tuple[Indices, Indices]:
        """Indices of a client's training and validation examples among all of the task's."""
        if (found := self._parts.get(client)) is None:
            if len(self._parts) >= _SEEN:
                self._parts.clear()
            found = self._parts[client] = self.shards.parts(client)
        return found

    def room(self, phase: Phase) -> Room:
        """How many clients are stacked at most, and whether that pays."""
        assert phase.training is not None
        size = phase.training.batch_size
        if size not in self._rooms:
            try:
                with reproducible(0):
                    model = self.trainer.module(phase.arrays)
                    rows = self._fetch(phase.constants)
                    x, _ = rows(np.arange(min(size, len(self.shards.samples))))
                    self._rooms[size] = room_for(model, x)
            except Exception as error:  # noqa: BLE001  (a user's model may raise anything; each client will say it)
                self._rooms[size] = Room(1, False, f"the model could not be tried: {error}".splitlines()[0])
        return self._rooms[size]

    def obstacle(self, phase: Phase) -> str:
        """Why a phase cannot train by step graphs; empty if it can."""
        assert phase.training is not None
        base = self._base(phase.constants)
        return self._graphs.obstacle(phase.arrays, base, phase.training, proximal=phase.proximal_mu > 0)

    def trouble(self, text: str) -> None:
        """Note why clients are not trained as they were to be, once."""
        line = text.splitlines()[0]
        if line not in self.troubles:
            self.troubles.append(line)

    def fit_by_graph(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """Train by a step graph, or by torch where that cannot.

        Raises:
            TrainingError: as `TorchTrainer.fit`.
        """
        try:
            return self._graphs.trainer(assignment.training.batch_size).fit(arrays, shard, assignment)
        except TrainingError:  # torch says more of what went wrong
            pass
        except Exception as error:  # noqa: BLE001  (whatever it is: torch may do it, or say more)
            self.trouble(f"some clients train by torch: {error}")
        return self.trainer.fit(arrays, shard, assignment)

    def fit_together(
        self, rows: Rows, pupils: Sequence[Pupil], starts: Sequence[Arrays], out: Arrays
    ) -> Outcome | None:
        """`fit_stacked`; None where these cannot be stacked, which is noted."""
        if pupils[0].assignment.training.patience:
            self.trouble("clients train one after the other because training.patience is set")
            return None
        try:
            with reproducible(0):
                return fit_stacked(self.trainer.shared(starts[0]), self.task.loss, rows, pupils, starts, out)
        except Exception as error:  # noqa: BLE001  (whatever it is: alone it may work, or say more)
            self.trouble(f"some clients train one after the other: {error}")
            return None

    def _train_stacked(self, phase: Phase, job: Job, out: Arrays) -> "list[Row | None]":
        """Rows of the clients that were trained together; None for those that are to be trained alone."""
        outcome = None
        if phase.backend == "vmap":
            pupils = [Pupil(self.parts(client)[0], _assignment(phase, seed)) for client, seed in job]
            outcome = self.fit_together(self._fetch(phase.constants), pupils, [phase.arrays], out)
        if outcome is None:
            return [None] * len(job)
        return [
            None if k in outcome.failed
            else Row(client, len(self.parts(client)[0]), outcome.metrics[k], outcome.warnings[k])
            for k, (client, _) in enumerate(job)
        ]  # fmt: skip

    def _train_one(self, phase: Phase, client: int, seed: int, out: Arrays) -> Row:
        fit = self.fit_by_graph if phase.backend == "onnx" else self.trainer.fit
        try:
            update = fit(phase.arrays, self._shard(phase, client), _assignment(phase, seed))
        except FedloomError as error:
            return Row(client, error=str(error))
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything)
            return Row(client, error=f"{type(error).__name__}: {error}")
        for name, array in update.arrays.items():
            out[name][...] = array
        return Row(client, update.examples, dict(update.metrics), update.warnings)

    def _evaluations(self, phase: Phase, parts: Sequence[Indices]) -> list[Evaluation]:
        if phase.backend == "torch":
            base = self._base(phase.constants)
            return [self.trainer.evaluate(phase.arrays, View(base, part)) for part in parts]
        with reproducible(0):
            model = self.trainer.shared(phase.arrays)
            return evaluate_stacked(model, self.task, self._fetch(phase.constants), parts)

    def _measuring(self, clients: Job, *, together: bool) -> list[Job]:
        jobs: list[Job] = []
        room = 0
        for client in clients:
            size = len(self.parts(client[0])[1])
            if not jobs or size > room:
                jobs.append([])
                room = _MEASURED if together else 0
            jobs[-1].append(client)
            room -= size
        return jobs

    def _shard(self, phase: Phase, client: int) -> Shard:
        base = self._base(phase.constants)
        train, validation = self.parts(client)
        return Shard(View(base, train), View(base, validation))

    def _base(self, constants: Arrays) -> Samples:
        """All examples with preprocessing applied, made once."""
        if self.task.preprocess is None:
            return self.shards.samples
        key = arrays_sha256(constants)
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = (key, prepare(self.shards.samples, self.task.preprocess, constants))
        return self._prepared[1]

    def _fetch(self, constants: Arrays) -> Fetch:
        return self.trainer.tensors(self._base(constants))


def handed(arrays: Arrays, clients: Job) -> list[Job]:
    """Clients that work one after the other, cut into what a process is given at a time."""
    fitting = _HANDED_BYTES // max(sum(array.nbytes for array in arrays.values()), 1)
    size = max(1, min(_HANDED, math.ceil(len(clients) * _PART), fitting))
    return [clients[i : i + size] for i in range(0, len(clients), size)]


def _assignment(phase: Phase, seed: int) -> Assignment:
    assert phase.training is not None
    return Assignment(training=phase.training, seed=seed, proximal_mu=phase.proximal_mu)


def part_of(stacks: Arrays, k: int) -> Arrays:
    """One client's arrays among those of K, (K, ...) each."""
    return {name: stack[k] for name, stack in stacks.items()}


def allocate(arrays: Arrays, clients: int) -> Arrays:
    """Room for the arrays of so many clients in this process."""
    return {name: np.empty((clients, *array.shape), array.dtype) for name, array in arrays.items()}
