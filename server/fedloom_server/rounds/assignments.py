"""Who is asked to train in a round, and with what."""

import random
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message

from fedloom_client.flower.records import to_record
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.recovery.strategy_state import restore_state
from fedloom_server.rounds.messages import attach
from fedloom_server.rounds.open_round import OpenRound
from fedloom_server.strategies.registry import nodes_needed
from fedloom_server.strategies.updates import split_statistics

if TYPE_CHECKING:
    from fedloom_server.rounds.federation import Federation


def assignments(run: "Federation", opened: OpenRound, statistics: frozenset[str]) -> list[Message]:
    """What the strategy asks of whom, the same whenever it is asked for this round and attempt."""
    restore_state(run.strategy, run.strategy_state)
    again = (opened.attempt,) if opened.attempt > 1 else ()
    run.seed(opened.number, "train", *again)
    run.roster.left_out = _left_out(run, opened)
    trained, _ = split_statistics(to_record(run.arrays), statistics)
    settings = run.plan.training.at_round(opened.number, run.plan.rounds).to_config()
    orders = run.plan.orders.at_round(opened.number).to_config()
    config = ConfigRecord({**settings, **orders, "seed": run.plan.seed, "attempt": opened.attempt})
    messages = list(run.strategy.configure_train(opened.number, trained, config, run.roster))
    if not isinstance(run.strategy, PrivateMean):  # there everybody takes part by a coin of its own
        messages = _with_stand_ins(run, opened, messages)
    run.roster.left_out = set()
    attach(messages, arrays=to_record(run.arrays), constants=to_record(run.constants))
    return messages


def _left_out(run: "Federation", opened: OpenRound) -> set[int]:
    """Repeat offenders, the worst first.

    Never so many that the strategy would wait for nodes without end; the most trusted come back first.
    """
    excluded = run.roster.excluded & run.declared.keys()
    count = len(run.declared) - len(excluded)
    offenders = (run.reputation.benched(opened.number) & run.declared.keys()) - excluded
    worst_first = run.reputation.trusted_first(offenders)[::-1]
    return set(worst_first[: max(count - nodes_needed(run.strategy), 0)])


def _with_stand_ins(run: "Federation", opened: OpenRound, messages: list[Message]) -> list[Message]:
    """Who gave no good update in an earlier attempt is replaced by somebody who was not asked, if there is.

    It is not hidden from the strategy, which would ask a fraction of fewer nodes, and so fewer.
    """
    if not opened.rows:
        return messages
    asked = {message.metadata.dst_node_id for message in messages}
    failed = {run.roster.node_of(client) for client in opened.rows}
    others = [node for node in run.roster.get_node_ids() if node not in asked | failed]
    random.shuffle(others)
    result = []
    for message in messages:
        if message.metadata.dst_node_id in failed and others:
            kind, group = message.metadata.message_type, message.metadata.group_id
            message = Message(message.content, others.pop(), kind, group_id=group)
        result.append(message)
    return result
