"""A node as a Flower ClientApp: a thin adapter over a Trainer, the same on every engine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.messages import (
    CLIENT_FAILED,
    evaluation_metrics,
    read_assignment,
    read_constants,
    reply_content,
    update_metrics,
)
from fedloom_client.flower.records import arrays_in, to_record, values_in
from fedloom_client.node import Node
from fedloom_client.orders import ALGORITHM, Given, Orders, evaluate, train
from fedloom_client.secure.flower import ACTION, secure_step
from fedloom_client.trainer import Trainer
from fedloom_edge.errors import FedloomError

MEMORY = "memory"
"""Name of the record in a node's `Context.state` that holds what `orders.train` keeps of it."""


def make_client_app(
    recipe: ShardRecipe,
    mods: list[Mod] | None = None,
    *,
    secret: bool = False,
    trainer: Trainer | None = None,
) -> ClientApp:
    """A ClientApp whose node `partition-id` (of its node config) trains on that shard of `recipe`.

    It answers `query` (examples and the preprocessing summary), `train`, `evaluate`, and the steps of
    secure aggregation, for which `secure.flower.masking` must be among the mods. With `secret` noise for
    privacy is the operating system's. `trainer` is TorchTrainer unless another is given.
    """
    app = ClientApp()
    member: Callable[[int], _Member] = partial(_member, recipe, trainer)  # type: ignore[arg-type]
    guarded = partial(_guarded, member)
    app.query()(guarded(_describe))
    app.query(ACTION)(guarded(_secure))
    app.train(mods=mods)(guarded(partial(_train, secret=secret)))
    app.evaluate()(guarded(_evaluate))
    return app


Handler = Callable[["_Member", Message, Context], RecordDict]


def _guarded(member: Callable[[int], "_Member"], handle: Handler) -> Callable[[Message, Context], Message]:
    """Turn a failure into an error reply with its reason: one client never ends a run."""

    def answer(message: Message, context: Context) -> Message:
        try:
            content = handle(member(int(context.node_config["partition-id"])), message, context)
        except FedloomError as error:
            return Message(Error(CLIENT_FAILED, str(error)), reply_to=message)
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything)
            return Message(Error(CLIENT_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
        return Message(content, reply_to=message)

    return answer


@dataclass(frozen=True)
class _Member:
    """A node and the index of its shard."""

    partition: int
    node: Node


@lru_cache(maxsize=1024)
def _member(recipe: ShardRecipe, trainer: Trainer | None, partition: int) -> _Member:
    shards = recipe.open()
    return _Member(partition, Node(shards.task, shards[partition], trainer or _trainer(recipe)))


@lru_cache(maxsize=4)
def _trainer(recipe: ShardRecipe) -> Trainer:
    from fedloom_client.torch_trainer import TorchTrainer  # torch is imported where it trains

    return TorchTrainer(recipe.open().task)


def _describe(member: _Member, message: Message, context: Context) -> RecordDict:
    described = member.node.describe()
    facts: dict[str, Any] = {
        "partition-id": member.partition,
        "num-examples": described.examples,
        "validation-examples": described.validation,
    }
    return RecordDict({"summary": to_record(described.summary), "metrics": MetricRecord(facts)})


def _secure(member: _Member, message: Message, context: Context) -> RecordDict:
    return secure_step(message, context)


def _train(member: _Member, message: Message, context: Context, *, secret: bool) -> RecordDict:
    began = time.perf_counter()
    orders = Orders.from_config(values_in(message.content, "config"))
    assignment = replace(read_assignment(message, member.partition), secret=secret)
    update, memory = train(member.node, _given(message, context), assignment, orders)
    if memory:
        context.state[MEMORY] = to_record(memory)
    metrics = update_metrics(update, time.perf_counter() - began)
    return reply_content(message, metrics, update.arrays, update.warnings)


def _evaluate(member: _Member, message: Message, context: Context) -> RecordDict:
    began = time.perf_counter()
    orders = Orders.from_config(values_in(message.content, "config"))
    result = evaluate(member.node, _given(message, context), orders)
    return reply_content(message, evaluation_metrics(result, time.perf_counter() - began))


def _given(message: Message, context: Context) -> Given:
    content = message.content
    return Given(
        arrays=arrays_in(content, "arrays"),
        broadcast=arrays_in(content, ALGORITHM),
        constants=read_constants(message),
        memory=arrays_in(context.state, MEMORY),
    )
