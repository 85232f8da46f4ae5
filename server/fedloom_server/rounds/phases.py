"""The two phases of a round: training, repeated where too few updates are good, and evaluation."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord

from fedloom_client.flower.records import from_record, to_record
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.errors import RunError
from fedloom_server.guard import quarantine
from fedloom_server.guard.guard import Finding
from fedloom_server.guard.norms import NO_LIMIT, RoundNorms, bucket, limit
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.privacy.run_privacy import keep_whole
from fedloom_server.report.spread import Spread, spread
from fedloom_server.rounds.assignments import assignments
from fedloom_server.rounds.intake import Intake, MeasuringIntake, TrainingIntake
from fedloom_server.rounds.messages import Batch, attach
from fedloom_server.rounds.open_round import OpenRound
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_server.secure.session import Session
from fedloom_server.secure.unmasking import UnmaskingError
from fedloom_server.strategies.registry import is_server_optimizer
from fedloom_server.strategies.updates import (
    Updates,
    collect,
    same_metrics,
    total_for_strategy,
    uses_evaluations,
)

if TYPE_CHECKING:
    from fedloom_server.rounds.federation import Federation


def train_clients(run: "Federation", opened: OpenRound) -> RoundNorms | None:
    """Train until enough updates are good: afterwards `run.arrays` are the new global arrays.

    Returns:
        Statistics of the norms of this round's updates, if they are known.

    Raises:
        RunError: every attempt had too few good updates.
    """
    while True:
        if not (reason := _attempt(run, opened)):
            norms = list(opened.batch.norms.values())
            return RoundNorms.of(norms) if norms else None
        opened.note_faults()
        opened.note("repeated", attempt=opened.attempt, reason=reason)
        opened.rows |= {row.client: row for row in opened.batch.rows if row.status != "ok"}
        if opened.attempt >= run.plan.guard.attempts:
            with run.store.transaction():
                opened.write_events(run.store)
                run.store.execute("DELETE FROM checkpoint WHERE open = 1")
            raise RunError(f"round {opened.number}: {reason}")
        if run.privacy is not None and run.privacy.secret and (over := run.privacy.over(opened.number)):
            raise RunError(f"round {opened.number}: {reason}; asked again, {over}")
        opened.attempt += 1
        opened.batch = Batch(opened.number, "train", run.plan.task.metric)


def _attempt(run: "Federation", opened: OpenRound) -> str:
    """One attempt at training; gives why it was not enough, or nothing."""
    statistics = run.trainer.statistics if is_server_optimizer(run.strategy) else frozenset[str]()
    if run.plan.secure is not None:
        return _secure_attempt(run, opened, statistics)
    updates = collect(run.strategy, run.arrays, statistics, run.most_examples)
    if opened.updates:
        updates.restore(opened.updates, run.store.get_arrays, opened.batch.reported())
        opened.updates = {}
    messages = assignments(run, opened, statistics)
    suspects = quarantine.Suspects()
    _charge(run, opened, messages)

    def save() -> None:
        run.save_if_due(opened, lambda: updates.state(run.store.put_arrays))

    _exchange(run, opened, messages, TrainingIntake(run, opened, updates, suspects), save)
    if run.privacy is not None:
        examples = {row.client: row.examples or 0 for row in opened.batch.rows}
        run.privacy.answered(opened.number, opened.attempt, examples)
    opened.train_seconds = opened.elapsed()
    _judge(run, opened, updates, suspects)
    _remember(run, opened)
    return _too_few(run, opened) or _aggregate(run, opened, *updates.for_strategy())


def _secure_attempt(run: "Federation", opened: OpenRound, statistics: frozenset[str]) -> str:
    """The same with updates that nobody sees; an open round is not saved, it begins anew with other keys."""
    session = Session(run, opened)
    asked = session.agree(assignments(run, opened, statistics))
    _charge(run, opened, asked)
    _exchange(run, opened, asked, session, lambda: None)
    opened.train_seconds = opened.elapsed()
    for client, reason in session.lost.items():
        opened.batch.missing(client, reason)
    _remember(run, opened)
    if reason := _too_few(run, opened):
        return reason
    try:
        total = session.unmask()
    except UnmaskingError as error:
        return str(error)
    if reason := _aggregate(run, opened, *total_for_strategy(total, statistics)):
        # Not repeated: equal updates of other clients would make a second sum, and the difference known.
        raise RunError(f"round {opened.number}: {reason}")
    if total.clipped:
        opened.note("warning", reason=f"{total.clipped} clients clipped their updates to secure.clip")
    return ""


def _charge(run: "Federation", opened: OpenRound, messages: Sequence[Message]) -> None:
    """Account for what clients will send, before they are asked to."""
    if run.privacy is not None:
        asked = {run.roster.client_of(m.metadata.dst_node_id) for m in messages}
        run.privacy.asked(opened.number, sorted(asked - opened.batch.entries.keys()))


def _aggregate(run: "Federation", opened: OpenRound, replies: list[Message], measured: Arrays) -> str:
    """New global arrays of what the strategy makes of `replies`; gives why there are none, or nothing."""
    arrays, metrics = run.strategy.aggregate_train(opened.number, replies)
    if arrays is None:
        return f"the strategy made no model out of {opened.batch.accepted} updates"
    merged = {**from_record(arrays), **measured}
    merged = {name: merged[name].astype(old.dtype) for name, old in run.arrays.items()}
    if run.privacy is not None:
        merged = keep_whole(run.arrays, merged, run.trainer.statistics)
    if not all(np.isfinite(array).all() for array in merged.values()):
        return "the strategy made a model with values that are not finite; lower its learning rate"
    if run.privacy is not None:
        run.privacy.made(opened.number, arrays_sha256(merged))
    run.arrays = merged
    opened.train_loss = _figure(metrics, "train-loss")
    opened.aggregate_seconds = opened.elapsed() - opened.train_seconds
    return ""


def _judge(run: "Federation", opened: OpenRound, updates: Updates, suspects: quarantine.Suspects) -> None:
    """Deal with outliers by norm, now that the norms of the whole round are known."""
    settings = run.plan.guard
    norms = opened.batch.norms
    highest = limit(settings, norms, run.past)
    beyond = sorted(client for client, norm in norms.items() if bucket(norm) > highest)
    most = 2.0 ** (highest / 2)
    opened.norm_limit = most if highest < NO_LIMIT else None
    refused: list[quarantine.Refused] = []
    for client in beyond:
        text = f"norm: {norms[client]:.4g} from the global arrays, at most {most:.4g} in this round"
        if settings.norms == "quarantine":
            size = opened.batch.entries[client].bytes_up
            refused.append(suspects.refused(client, text, norms[client], size))
            opened.batch.refuse(client, text)
        else:
            opened.note("clipped" if settings.norms == "clip" else "warning", client, reason=text)
    if refused:
        with run.store.transaction():
            quarantine.keep(run.store, opened.number, opened.attempt, refused)
    updates.settle(NO_LIMIT if settings.norms == "accept" else highest, settings.norms == "clip")


def _remember(run: "Federation", opened: OpenRound) -> None:
    for row in opened.batch.rows:
        if row.status == "ok":
            run.reputation.accepted(row.client)
        elif row.status == "rejected" and (rounds := run.reputation.refused(row.client, opened.number)):
            opened.note("benched", row.client, rounds=rounds, reason=row.reason)


def _too_few(run: "Federation", opened: OpenRound) -> str:
    batch = opened.batch
    needed = max(math.ceil(run.plan.guard.quorum * len(batch.entries)), 1)
    if batch.accepted >= needed or (not batch.entries and isinstance(run.strategy, PrivateMean)):
        return ""
    if not batch.accepted:
        return f"no usable update from {len(batch.entries)} clients; {batch.first_fault()}"
    return (
        f"{batch.accepted} usable updates from {len(batch.entries)} clients, at least {needed} are needed; "
        f"{batch.first_fault()}"
    )


def evaluate_clients(run: "Federation", opened: OpenRound) -> Spread:
    """Evaluate the global arrays on the clients' validation parts."""
    run.seed(opened.number, "evaluate")
    config = ConfigRecord({"seed": run.plan.seed, "attempt": opened.attempt})
    arrays = to_record(run.arrays)
    messages = list(run.strategy.configure_evaluate(opened.number, arrays, config, run.roster))
    attach(messages, arrays=arrays, constants=to_record(run.constants))
    intake = MeasuringIntake(run, opened.number)
    _exchange(run, opened, messages, intake, lambda: None)
    if uses_evaluations(run.strategy):
        # A shard too small for a validation part answers with no examples: nothing to average.
        rows = opened.batch.entries
        measured = [intake.replies[client]() for client in sorted(intake.replies) if rows[client].examples]
        if measured:
            run.strategy.aggregate_evaluate(opened.number, same_metrics(measured))
    return spread(opened.batch.rows, higher_is_better=run.plan.task.metric == "accuracy")


def _exchange(
    run: "Federation",
    opened: OpenRound,
    messages: Sequence[Message],
    intake: Intake,
    save: Callable[[], None],
) -> None:
    """Send messages to clients whose reply is not in yet; `intake` judges and keeps each as it arrives."""
    batch, asked = opened.batch, {run.roster.client_of(m.metadata.dst_node_id) for m in messages}
    if not batch.entries:
        opened.traffic.sent(messages)
    waiting = asked - batch.entries.keys()
    rest = [m for m in messages if run.roster.client_of(m.metadata.dst_node_id) in waiting]
    run.roster.expect(messages)
    for reply in run.roster.replies(rest, timeout=run.plan.deadline):
        if isinstance(reply, StackedReplies):
            clients = [run.roster.client_of(q.metadata.dst_node_id) for q in reply.questions]
            waiting.difference_update(clients)
            opened.traffic.up += batch.add_stack(clients, reply, intake.many(clients, reply))
            _tell(run, batch, len(messages))
            if run.roster.settled:
                save()
            continue
        client = run.roster.clients.get(reply.metadata.src_node_id)
        if client is None or client not in waiting:
            # An engine's own error replies can carry no client: it is missing below.
            if not reply.has_error():
                known = "duplicate: a second reply" if client in asked else "stranger: nobody asked this node"
                opened.note("rejected", client, reason=known)
            continue
        waiting.discard(client)
        size = opened.traffic.received(reply)
        finding = Finding("") if reply.has_error() else intake.one(client, reply, size)
        batch.add(client, reply, finding, size)
        _tell(run, batch, len(messages))
        if run.roster.settled:
            save()
    deadline = run.plan.deadline
    busy = run.clock.at_work() if run.clock is not None and batch.phase == "train" else frozenset()
    for client in [client for client in waiting if run.roster.node_of(client) not in busy]:
        batch.missing(client, "no reply" if deadline is None else f"no reply within {deadline:g} s")


def _tell(run: "Federation", batch: Batch, total: int) -> None:
    for watcher in run.watchers:
        watcher.client_done(batch.round_number, batch.phase, len(batch.entries), total)


def _figure(metrics: MetricRecord | None, name: str) -> float | None:
    value = None if metrics is None else metrics.get(name)
    return float(value) if isinstance(value, int | float) else None
