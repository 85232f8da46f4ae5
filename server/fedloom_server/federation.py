"""The round loop: drives any Flower strategy through its four abstract methods, on any grid."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloom_client.preprocess import prepare
from fedloom_client.records import from_record, to_record
from fedloom_client.samples import Samples
from fedloom_client.seeds import derive_seed
from fedloom_client.task import Task
from fedloom_client.trainer import Evaluation, Trainer
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.errors import RunError
from fedloom_server.commands import Operators
from fedloom_server.early_stop import EarlyStop
from fedloom_server.guard import Guard
from fedloom_server.messages import Batch, Traffic, attach
from fedloom_server.roster import Member, OrderedGrid, meet
from fedloom_server.spread import Spread, spread
from fedloom_server.store import ClientRound, ClientRow, Round, RunStore
from fedloom_server.strategies import is_server_optimizer
from fedloom_server.updates import collect, same_metrics, split_statistics


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a federation is to do.

    Attributes:
        task: what is learned.
        training: settings of local training.
        rounds: how many, at most.
        clients: how many nodes take part.
        seed: of everything that is drawn at random.
        early_stop: when to stop before `rounds`, or None.
    """

    task: Task
    training: Training
    rounds: int
    clients: int
    seed: int
    early_stop: EarlyStop | None = None


class Watcher(Protocol):
    """Is told how a run goes on (a progress bar, TensorBoard). It never changes the run."""

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """A client's reply has come in."""
        ...

    def round_done(self, entry: Round) -> None:
        """A round is finished and in the store."""
        ...


class Federation:
    """A run: rounds of training and evaluation, each one transaction in the store."""

    def __init__(
        self,
        plan: Plan,
        strategy: Strategy,
        trainer: Trainer,
        test: Samples,
        store: RunStore,
        watchers: Sequence[Watcher] = (),
        label_counts: Callable[[int], list[int] | None] = lambda client: None,
    ) -> None:
        self.plan = plan
        self.strategy = strategy
        self.trainer = trainer
        self.test = test
        self.store = store
        self.watchers = watchers
        self.label_counts = label_counts
        self.arrays: Arrays = {}
        self.constants: Arrays = {}
        self.best: tuple[float, str] | None = None
        self._trained = self._aggregated = 0.0

    def run(self, grid: Grid) -> None:
        """Run all rounds on `grid`; the store holds what they come to.

        Raises:
            RunError: no client gave a usable update in a round.
            Stopped: an operator asked for that.
        """
        members = meet(grid, self.plan.clients)
        ordered = OrderedGrid(grid, members)
        self._begin(members)
        operators = Operators(self.store, ordered, self.strategy)
        self._finish_round(self._central(0), [], time.perf_counter())
        for number in range(1, self.plan.rounds + 1):
            operators.obey(number)
            self._round(number, ordered)
            if self.plan.early_stop and (reason := self.plan.early_stop.reached(self.store.rounds())):
                self.store.event("early-stop", round_number=number, reason=reason)
                break

    def _begin(self, members: Sequence[Member]) -> None:
        """Fit the preprocessing, draw the initial arrays, write down who takes part."""
        preprocess = self.plan.task.preprocess
        if preprocess is not None:
            self.constants = preprocess.merge(member.summary for member in members)
            self.test = prepare(self.test, preprocess, self.constants)
        self.arrays = self.trainer.initial_arrays(derive_seed(self.plan.seed, "initial"))
        self.guard = Guard.of(self.arrays)
        self._largest_shard = max((member.examples for member in members), default=1)
        rows = (
            ClientRow(m.client, f"client {m.client}", m.examples, m.validation, self.label_counts(m.client))
            for m in members
        )
        with self.store.transaction():
            self.store.add_clients(rows)
            self.store.set_facts(
                {"preprocess": self.store.put_arrays(self.constants) if self.constants else None}
            )
            self.store.event("started", clients=len(members))

    def _round(self, number: int, grid: OrderedGrid) -> None:
        began = time.perf_counter()
        self._seed(number, "train")
        traffic = Traffic()
        train_loss, rows = self._train(number, grid, traffic)
        self._seed(number, "evaluate")
        federated, evaluated = self._evaluate(number, grid, traffic)
        entry = replace(
            self._central(number),
            train_loss=train_loss,
            federated_loss=federated.loss,
            federated_metric=federated.metric,
            worst_metric=federated.worst,
            clients_ok=sum(row.status == "ok" for row in rows),
            clients_failed=sum(row.status == "failed" for row in rows),
            rejected=sum(row.status == "rejected" for row in rows),
            train_seconds=self._trained - began,
            aggregate_seconds=self._aggregated - self._trained,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
        )
        self._finish_round(entry, [*rows, *evaluated], began)

    def _seed(self, number: int, phase: str) -> None:
        # Flower's strategies draw from Python's and numpy's global generators; seeding both for each
        # round and phase makes a round independent of those before it: a run can go on from any.
        seed = derive_seed(self.plan.seed, number, phase)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _train(
        self, number: int, grid: OrderedGrid, traffic: Traffic
    ) -> tuple[float | None, list[ClientRound]]:
        """One phase of training: afterwards `self.arrays` are the new global arrays."""
        averaged = self.trainer.statistics if is_server_optimizer(self.strategy) else frozenset[str]()
        trained, _ = split_statistics(to_record(self.arrays), averaged)
        settings = self.plan.training.at_round(number, self.plan.rounds).to_config()
        config = ConfigRecord({**settings, "seed": self.plan.seed})
        messages = list(self.strategy.configure_train(number, trained, config, grid))
        attach(messages, arrays=to_record(self.arrays), constants=to_record(self.constants))
        updates = collect(self.strategy, self.arrays, averaged, self._largest_shard)
        batch = Batch(number, "train", self.plan.task.metric, updates.add)
        self._exchange(batch, messages, grid, traffic, self.guard.refuses_update)
        if not batch.accepted:
            raise RunError(
                f"round {number}: no usable update from {len(messages)} clients; {batch.first_fault()}"
            )
        self._trained = time.perf_counter()
        replies, statistics = updates.for_strategy()
        arrays, metrics = self.strategy.aggregate_train(number, replies)
        if arrays is None:
            raise RunError(f"round {number}: the strategy made no model out of {batch.accepted} updates")
        merged = {**from_record(arrays), **statistics}
        self.arrays = {name: merged[name].astype(old.dtype) for name, old in self.arrays.items()}
        self._aggregated = time.perf_counter()
        return _figure(metrics, "train-loss"), batch.rows

    def _evaluate(self, number: int, grid: OrderedGrid, traffic: Traffic) -> tuple[Spread, list[ClientRound]]:
        """One phase of evaluation on the clients' validation parts."""
        config = ConfigRecord({"seed": self.plan.seed})
        arrays = to_record(self.arrays)
        messages = list(self.strategy.configure_evaluate(number, arrays, config, grid))
        attach(messages, arrays=arrays, constants=to_record(self.constants))
        replies: dict[int, Message] = {}
        batch = Batch(number, "evaluate", self.plan.task.metric, replies.__setitem__)
        self._exchange(batch, messages, grid, traffic, self.guard.refuses_evaluation)
        # A shard too small for a validation part answers with no examples: nothing to average.
        measured = [replies[client] for client in sorted(replies) if _examples(replies[client])]
        if measured:
            self.strategy.aggregate_evaluate(number, same_metrics(measured))
        return spread(batch.rows, higher_is_better=self.plan.task.metric == "accuracy"), batch.rows

    def _exchange(
        self,
        batch: Batch,
        messages: Sequence[Message],
        grid: OrderedGrid,
        traffic: Traffic,
        refuses: Callable[[Message], str],
    ) -> None:
        """Send messages and sort the replies into accepted, rejected and failed as they arrive."""
        traffic.sent(messages)
        asked = {grid.client_of(message.metadata.dst_node_id) for message in messages}
        for done, reply in enumerate(grid.send_and_receive(messages), start=1):
            client = grid.clients.get(reply.metadata.src_node_id)
            if client is None or client not in asked:
                continue  # an engine's own error replies can carry no client: it is missing below
            asked.discard(client)
            reason = "" if reply.has_error() else refuses(reply)
            batch.add(client, reply, reason, traffic.received(reply))
            for watcher in self.watchers:
                watcher.client_done(batch.round_number, batch.phase, done, len(messages))
        for client in asked:
            batch.missing(client)

    def _central(self, number: int) -> Round:
        """Evaluate the global arrays on the held-out test set."""
        result: Evaluation = self.trainer.evaluate(self.arrays, self.test)
        return Round(number, result.loss, result.metrics[self.plan.task.metric], dict(result.metrics))

    def _finish_round(self, entry: Round, rows: Iterable[ClientRound], began: float) -> None:
        """Arrays first, then one transaction that refers to them, then the files nobody refers to."""
        digest = self.store.put_arrays(self.arrays)
        entry = replace(entry, arrays=digest, seconds=time.perf_counter() - began)
        rows = list(rows)
        with self.store.transaction():
            self.store.add_round(entry, rows)
            self.store.event("round", round_number=entry.number)
            for row in rows:
                if row.status != "ok":
                    self.store.event(row.status, round_number=row.round, client=row.client, reason=row.reason)
                for warning in row.metrics.get("warnings", ()):
                    self.store.event("warning", round_number=row.round, client=row.client, reason=warning)
        self._note_best(entry)
        best = [self.best[1]] if self.best else []
        self.store.keep_arrays({digest, *best, *([arrays_sha256(self.constants)] if self.constants else [])})
        for watcher in self.watchers:
            watcher.round_done(entry)

    def _note_best(self, entry: Round) -> None:
        """Remember the arrays of the best round by the clients' validation parts, never the test set."""
        if entry.federated_metric is None:
            return
        value = entry.federated_metric if self.plan.task.metric == "accuracy" else -entry.federated_metric
        if self.best is None or value > self.best[0]:
            self.best = (value, entry.arrays)


def _figure(metrics: MetricRecord | None, name: str) -> float | None:
    value = None if metrics is None else metrics.get(name)
    return float(value) if isinstance(value, int | float) else None


def _examples(reply: Message) -> int:
    count = reply.content.metric_records["metrics"]["num-examples"]
    return count if isinstance(count, int) else 0
