"""Clients that do more than train: each runs its whole app, and trainings asked for together are stacked."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from flwr.app import Message, RecordDict
from flwr.clientapp.typing import Mod
from torch import Tensor

from fedloom_client.data.samples import Indices, Samples, Shard, View
from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_client.flower.records import values_in
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_edge.arrays import Arrays
from fedloom_simulations.engine.cohort import Cohort, allocate, part_of
from fedloom_simulations.engine.inline import make_context
from fedloom_simulations.engine.lockstep import Lockstep
from fedloom_simulations.engine.vectorised.fitting import Pupil, Rows
from fedloom_simulations.engine.vectorised.schedule import steps


@dataclass(frozen=True)
class Asked:
    """A client's message, and its state before it."""

    message: Message
    state: RecordDict


@dataclass(frozen=True)
class Answered:
    """What the client replied, and its state after it."""

    reply: Message
    state: RecordDict


@dataclass(frozen=True)
class WholeJob:
    """Clients whose trainings are stacked where they can be.

    Attributes:
        backend: torch, vmap or onnx.
        asked: the clients.
    """

    backend: str
    asked: Sequence[Asked]


class WholeClients:
    """The clients of a cohort with all that is around their training."""

    def __init__(self, cohort: Cohort, recipe: ShardRecipe, clients: int, mods: Sequence[Mod]) -> None:
        self._trainer = _SharedTrainer(cohort)
        self._clients = clients
        self.app = make_client_app(recipe, list(mods), trainer=self._trainer)

    def run(self, job: WholeJob) -> list[Answered]:
        """Answers to a job's messages, in their order."""
        began = time.perf_counter()
        calls = [partial(self._answer, asked) for asked in job.asked]
        self._trainer.backend = job.backend
        answers = self._trainer.lockstep.run(calls) if job.backend == "vmap" else [call() for call in calls]
        seconds = (time.perf_counter() - began) / len(job.asked)
        for answer in answers:  # of which each has noted all that went by while it waited
            if not answer.reply.has_error() and (told := values_in(answer.reply.content, "metrics")):
                told["seconds"] = seconds
        return answers

    def _answer(self, asked: Asked) -> Answered:
        context = make_context(
            asked.message.metadata.dst_node_id, self._clients, RecordDict(dict(asked.state))
        )
        return Answered(self.app(asked.message, context), context.state)


@dataclass(frozen=True)
class _Fit:
    """A training that a client asks for."""

    arrays: Arrays
    shard: Shard
    assignment: Assignment


class _SharedTrainer:
    """The trainer of all clients of a process; those that ask in lockstep are trained together.

    Attributes:
        backend: how.
        lockstep: within which clients are to run.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.backend = "torch"
        self.lockstep: Lockstep[_Fit, Update] = Lockstep(self._fit_all)
        self._cohort = cohort
        self._torch = cohort.trainer

    @property
    def statistics(self) -> frozenset[str]:
        """As `TorchTrainer.statistics`."""
        return self._torch.statistics

    def initial_arrays(self, seed: int) -> Arrays:
        """As `TorchTrainer.initial_arrays`."""
        return self._torch.initial_arrays(seed)

    def evaluate(self, arrays: Arrays, samples: Samples) -> Evaluation:
        """As `TorchTrainer.evaluate`."""
        return self._torch.evaluate(arrays, samples)

    def fit(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """As `TorchTrainer.fit`, up to rounding."""
        if self.backend == "vmap":
            return self.lockstep.ask(_Fit(arrays, shard, assignment))
        if self.backend == "onnx":
            return self._cohort.fit_by_graph(arrays, shard, assignment)
        return self._torch.fit(arrays, shard, assignment)

    def _fit_all(self, asked: Sequence[_Fit]) -> list[Update | Exception]:
        found: list[Update | Exception | None] = [None] * len(asked)
        groups: dict[object, list[int]] = {}
        for place, fit in enumerate(asked):
            groups.setdefault(_kind(fit.assignment, len(fit.shard.train)), []).append(place)
        for places in groups.values():
            if len(places) > 1:
                self._fit_stacked(asked, places, found)
        return [
            self._fit_alone(fit) if done is None else done for fit, done in zip(asked, found, strict=True)
        ]

    def _fit_alone(self, fit: _Fit) -> Update | Exception:
        try:
            return self._torch.fit(fit.arrays, fit.shard, fit.assignment)
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything; its client says it)
            return error

    def _fit_stacked(
        self, asked: Sequence[_Fit], places: list[int], found: "list[Update | Exception | None]"
    ) -> None:
        """Train those at `places` together; one that fails is left to be trained alone."""

        def length(place: int) -> tuple[int, int]:
            count = len(asked[place].shard.train)
            return -steps(count, asked[place].assignment.training), -count

        places = sorted(places, key=length)
        fits = [asked[place] for place in places]
        out = allocate(fits[0].arrays, len(fits))
        rows, examples = self._rows([fit.shard.train for fit in fits])
        pupils = [Pupil(part, fit.assignment) for part, fit in zip(examples, fits, strict=True)]
        outcome = self._cohort.fit_together(rows, pupils, [fit.arrays for fit in fits], out)
        if outcome is None:
            return
        for k, place in enumerate(places):
            if k not in outcome.failed:
                arrays = part_of(out, k)
                examined = len(fits[k].shard.train)
                found[place] = Update(arrays, examined, outcome.metrics[k], outcome.warnings[k])

    def _rows(self, parts: Sequence[Samples]) -> tuple[Rows, list[Indices]]:
        """Examples by index among those of all parts, and the indices of each part's."""
        first = parts[0]
        if isinstance(first, View):
            views = [part for part in parts if isinstance(part, View) and part.base is first.base]
            if len(views) == len(parts):
                return self._torch.tensors(first.base), [view.indices for view in views]
        sizes = [len(part) for part in parts]
        ends = np.cumsum(sizes)
        starts = ends - sizes
        fetches = [self._torch.tensors(part) for part in parts]

        def rows(indices: Indices) -> tuple[Tensor, Tensor]:
            owners = np.searchsorted(ends, indices, side="right")
            runs = np.split(np.arange(len(indices)), np.flatnonzero(np.diff(owners)) + 1)
            whose = [int(owners[run[0]]) for run in runs]
            pairs = [fetches[k](indices[run] - starts[k]) for k, run in zip(whose, runs, strict=True)]
            x, y = zip(*pairs, strict=True)
            return torch.cat(x), torch.cat(y)

        return rows, np.split(np.arange(ends[-1]), ends[:-1])


def _kind(assignment: Assignment, examples: int) -> object:
    """What trainings that can be stacked have in common."""
    training = assignment.training
    if training.dp_noise or assignment.enough is not None or examples == 0:
        return object()
    return (
        replace(training, steps=0), assignment.proximal_mu, bool(assignment.anchor), bool(assignment.offset),
        assignment.frozen, min(examples, training.batch_size) == 1,
    )  # fmt: skip
