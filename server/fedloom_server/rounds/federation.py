"""The round loop: drives any Flower strategy through its four abstract methods, on any grid."""

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloom_client.data.preprocess import prepare
from fedloom_client.data.samples import Samples
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Evaluation, Trainer
from fedloom_edge.arrays import Arrays
from fedloom_server.energy import EVENT as ENERGY
from fedloom_server.energy import of_devices
from fedloom_server.grids.clock import Clocked, clock_of
from fedloom_server.guard.norms import PAST, RoundNorms
from fedloom_server.guard.reputation import Reputation
from fedloom_server.privacy.mechanisms import Mechanisms
from fedloom_server.privacy.options import run_warnings
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.privacy.run_privacy import RunPrivacy
from fedloom_server.recovery.checkpoints import Checkpoint, Checkpoints
from fedloom_server.recovery.client_state import states_keeper
from fedloom_server.recovery.run_state import recognise, take_over, whole_state
from fedloom_server.recovery.strategy_state import require_codec
from fedloom_server.rounds.commands import Operators
from fedloom_server.rounds.messages import Batch
from fedloom_server.rounds.open_round import OpenRound, Pace
from fedloom_server.rounds.phases import evaluate_clients, train_clients
from fedloom_server.rounds.plan import Plan, Watcher
from fedloom_server.rounds.roster import DataGrows, Member, Numbered, OrderedGrid, meet
from fedloom_server.store.rows import ClientRow, Round
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.composed import Composed
from fedloom_server.strategies.registry import is_server_optimizer

_LISTED = 100_000  # clients that are written into the store before anything is known of them
_AT_RISK = 1.0  # seconds of work that a power cut may undo, at least one round
_UNSYNCED = 64_000_000  # bytes of arrays that may lie on disk without fsync


class Federation:
    """A run: rounds of training and evaluation, each one transaction in the store.

    Everything that decides the future of a run is in its attributes and in the strategy's state; a
    checkpoint holds all of it, so that `run` goes on from the store's newest one as if nothing had
    happened.
    """

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
        """Prepare a run.

        Raises:
            InputError: the strategy's state cannot be kept.
        """
        require_codec(strategy)
        self.plan = plan
        self.strategy = strategy
        self.trainer = trainer
        self.test = test
        self.store = store
        self.watchers = watchers
        self.label_counts = label_counts
        self.checkpoints = Checkpoints(store, plan.keep)
        self.number = 0
        self.arrays: Arrays = {}
        self.constants: Arrays = {}
        self.best: tuple[float, str] | None = None
        self.past: list[RoundNorms] = []
        self.reputation = Reputation()
        self.strategy_state: Arrays = {}
        self.clock: Clocked | None = None
        mechanisms = Mechanisms.of(strategy, plan.training)
        self.privacy = RunPrivacy(plan, mechanisms, store) if mechanisms else None
        self.ended = ""
        self._state: dict[str, Any] = {}  # of the last checkpoint of a finished phase
        self._pace = Pace(plan.save_seconds)
        self._changed: dict[int, RecordDict] = {}
        self._listed: set[int] = set()
        self._durable_at = -math.inf

    def run(self, grid: Grid) -> None:
        """Run the rounds that are left on `grid`; the store holds what they come to.

        Raises:
            RunError: too few clients gave a usable update, however often the round was repeated, or a
                checkpoint or the data is not what it was.
            Stopped: an operator asked for that.
        """
        members = meet(grid, self.plan.clients)
        self.roster = OrderedGrid(grid, members)
        self.declared: Mapping[int, int] = (
            members.declared if isinstance(members, Numbered) else {m.client: m.examples for m in members}
        )
        self.most_examples = max(member.examples for member in members)
        self._members = members
        self._keeper = states_keeper(grid)
        self._data_may_grow = isinstance(grid, DataGrows)
        self.clock = clock_of(grid)
        saved = self.checkpoints.newest()
        if isinstance(self.strategy, PrivateMean):
            self.strategy.key = derive_seed(self.plan.seed, "privacy")
            if is_server_optimizer(self.strategy.strategy):
                self.strategy.statistics = self.trainer.statistics
        if isinstance(self.strategy, Composed):
            self.strategy.draw = self._drawn
        if self.privacy is not None:
            self.privacy.begin(self.strategy, self.declared, saved is not None)
        opened: OpenRound | None = None
        if saved is None:
            self._begin(members)
        else:
            opened = self._go_on(saved, members)
        operators = Operators(self.store, self.roster, self.strategy)
        while not self._over(opened):
            if opened is None:  # requests never meet half a round
                operators.obey(self.number + 1)
            self._round(opened or self._opened(self.number + 1))
            opened = None
        self.store.settle()
        self._prune()

    def _begin(self, members: Sequence[Member]) -> None:
        """Fit the preprocessing, draw the initial arrays, write down who takes part: round 0."""
        preprocess = self.plan.task.preprocess
        if preprocess is not None:
            self.constants = preprocess.merge(member.summary for member in members)
        self._prepare_test()
        self.arrays = self._drawn()
        with self.store.transaction():
            if len(members) <= _LISTED:
                self._list_clients(member.client for member in members)
            self.store.set_facts(
                {"preprocess": self.store.put_arrays(self.constants) if self.constants else None}
            )
            self.store.event("started", clients=len(members))
            for warning in run_warnings(self.plan, self.strategy, lambda: sum(self.declared.values())):
                self.store.event("warning", reason=warning)
        self._finish_round(self._central(0), self._opened(0))

    def _drawn(self, *number: int) -> Arrays:
        """Initial arrays; those without a number are the run's."""
        return self.trainer.initial_arrays(derive_seed(self.plan.seed, "initial", *number))

    def _go_on(self, saved: Checkpoint, members: Sequence[Member]) -> OpenRound | None:
        """Take over a checkpoint; gives the round that was open, if one was."""
        for row in self.store.clients():
            self._listed.add(row.id)
            recognise(self.store, row, members[row.id], may_grow=self._data_may_grow)
        state = saved.state
        self.number = saved.round
        take_over(self, state)
        self._state = {key: value for key, value in state.items() if key != "open"}
        self._prepare_test()
        if self._keeper is not None:
            clients = self.checkpoints.client_states(saved)
            self._keeper.restore_states({self.roster.node_of(c): records for c, records in clients.items()})
        with self.store.transaction():
            self.store.event("resumed", round_number=saved.round, open=saved.open)
        return OpenRound.restored(state["open"]) if saved.open else None

    def _prepare_test(self) -> None:
        if self.plan.task.preprocess is not None:
            self.test = prepare(self.test, self.plan.task.preprocess, self.constants)

    def _opened(self, number: int) -> OpenRound:
        return OpenRound(number, Batch(number, "train", self.plan.task.metric))

    def _over(self, opened: OpenRound | None) -> bool:
        """Whether the last round is done, or early stopping or the privacy budget says so."""
        if self.number >= self.plan.rounds:
            return True
        if self.plan.early_stop:
            self.ended = self.plan.early_stop.reached(self.store.rounds())
        if self.privacy is not None and not self.ended:
            self.ended = self.privacy.over(self.number + 1, opened)
        if self.ended:
            self.store.event("early-stop", round_number=self.number, reason=self.ended)
        return bool(self.ended)

    def _round(self, opened: OpenRound) -> None:
        if opened.batch.phase == "train":
            if (norms := train_clients(self, opened)) is not None:
                self.past = [*self.past, norms][-PAST:]
            opened.rows |= opened.batch.entries
            opened.note_faults()
            opened.batch = Batch(opened.number, "evaluate", self.plan.task.metric)
            # With secret noise new arrays cannot be made again: they are kept before anybody sees them.
            if self._pace.due() or (self.privacy is not None and self.privacy.secret):
                self._state = whole_state(self)
                self.save_open(opened, {})
        opened.batch.entries.clear()  # evaluation is cheap: it begins anew
        federated = evaluate_clients(self, opened)
        rows = list(opened.rows.values())
        entry = replace(
            self._central(opened.number),
            train_loss=opened.train_loss,
            train_seconds=opened.train_seconds,
            aggregate_seconds=opened.aggregate_seconds,
            federated_loss=federated.loss,
            federated_metric=federated.metric,
            worst_metric=federated.worst,
            clients_ok=sum(row.status == "ok" for row in rows),
            clients_failed=sum(row.status == "failed" for row in rows),
            rejected=sum(row.status == "rejected" for row in rows),
            bytes_up=opened.traffic.up,
            bytes_down=opened.traffic.down,
            norm_limit=opened.norm_limit,
        )
        self._finish_round(entry, opened)

    def seed(self, *parts: int | str) -> None:
        """Make what follows independent of everything before it, so that a run can go on from any round.

        Flower's strategies draw from Python's and numpy's global generators.
        """
        seed = derive_seed(self.plan.seed, *parts)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def save_if_due(self, opened: OpenRound, updates: Callable[[], dict[str, Any]]) -> None:
        """Save the open round, with what `updates` says is in, if it is time to."""
        if self._pace.due():
            self.save_open(opened, updates())

    def save_open(self, opened: OpenRound, updates: dict[str, Any]) -> None:
        """Save where the open round stands: one transaction after the arrays that it refers to."""
        began = time.perf_counter()
        reputation = self.reputation.state()  # an earlier attempt at this round may have changed it
        state = {**self._state, "reputation": reputation, "open": {**opened.state(), "updates": updates}}
        self._gather_states()
        with self.store.transaction(durable=True):
            self.checkpoints.add(self.number, state, self._changed)
            self._write_ledger()
        self._changed = {}
        self._pace.saved(began)

    def _central(self, number: int) -> Round:
        """Evaluate the global arrays on the held-out test set."""
        result: Evaluation = self.trainer.evaluate(self.arrays, self.test)
        return Round(number, result.loss, result.metrics[self.plan.task.metric], dict(result.metrics))

    def _finish_round(self, entry: Round, opened: OpenRound) -> None:
        """Arrays first, then one transaction that refers to them, then the files nobody refers to.

        Rounds that take milliseconds share an fsync: a kill loses none of them, a power cut the last second.
        """
        self.number = opened.number
        self._state = whole_state(self)
        spent = self.privacy.figures() if self.privacy is not None else {}
        entry = replace(entry, arrays=self._state["arrays"], metrics={**entry.metrics, **spent})
        self._note_best(entry)
        self._state["best"] = self.best
        opened.note_faults()
        if self.clock is not None:
            opened.note("clock", seconds=self.clock.time)
        if energy := of_devices([*opened.rows.values(), *opened.batch.rows]):
            opened.note(ENERGY, **energy)
        self._gather_states()
        entry = replace(entry, seconds=opened.elapsed())
        now = time.perf_counter()
        durable = now - self._durable_at >= _AT_RISK or self.store.unsynced_bytes > _UNSYNCED
        with self.store.transaction(durable=durable):
            self._list_clients({*opened.rows, *opened.batch.entries})
            self.store.add_round(entry, [*opened.rows.values(), *opened.batch.rows])
            self.store.event("round", round_number=entry.number)
            opened.write_events(self.store)
            self.checkpoints.add(self.number, self._state, self._changed)
            self._write_ledger()
        self._changed = {}
        if durable:  # what a power cut falls back on is the newest of those that stay
            self._durable_at = now
            self._prune()
        for watcher in self.watchers:
            watcher.round_done(entry)

    def _write_ledger(self) -> None:
        if self.privacy is not None:
            self.privacy.write()

    def _prune(self) -> None:
        self.checkpoints.prune(self.number, [self.best[1]] if self.best else [])

    def _list_clients(self, clients: Iterable[int]) -> None:
        """Write down clients that are not in the store yet; of a large population those who took part."""
        new = [self._members[client] for client in clients if client not in self._listed]
        self._listed.update(member.client for member in new)
        self.store.add_clients(
            ClientRow(m.client, f"client {m.client}", m.examples, m.validation, self.label_counts(m.client))
            for m in new
        )

    def _gather_states(self) -> None:
        if self._keeper is not None:
            changed = self._keeper.changed_states()
            self._changed |= {self.roster.client_of(node): state for node, state in changed.items()}

    def _note_best(self, entry: Round) -> None:
        """Remember the arrays of the best round by the clients' validation parts, never the test set."""
        if entry.federated_metric is None:
            return
        value = entry.federated_metric if self.plan.task.metric == "accuracy" else -entry.federated_metric
        if self.best is None or value > self.best[0]:
            self.best = (value, entry.arrays)
