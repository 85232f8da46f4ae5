"""A node as a Flower ClientApp: a thin adapter over a Trainer, the same on every engine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedloom_client.node import Node
from fedloom_client.orders import Orders, train
from fedloom_client.records import from_record, to_record
from fedloom_client.seeds import derive_seed
from fedloom_client.shards import ShardRecipe
from fedloom_client.trainer import Assignment, Evaluation, Trainer, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError

CLIENT_FAILED = 1
"""Error code of a reply whose reason is a sentence for the operator."""
ROUND = "server-round"
"""Key of the round in a message's settings, and of the ConfigRecord and its value in a reply."""
MEMORY = "memory"
"""Name of the record in a node's `Context.state` that holds what `orders.train` keeps of it."""


def make_client_app(recipe: ShardRecipe, mods: list[Mod] | None = None) -> ClientApp:
    """A ClientApp whose node `partition-id` (of its node config) trains on that shard of `recipe`.

    It answers `query` (examples and the preprocessing summary), `train` and `evaluate`.
    """
    app = ClientApp()
    app.query()(_guarded(recipe, _describe))
    app.train(mods=mods)(_guarded(recipe, _train))
    app.evaluate()(_guarded(recipe, _evaluate))
    return app


Handler = Callable[["_Member", Message, Context], RecordDict]


def _guarded(recipe: ShardRecipe, handle: Handler) -> Callable[[Message, Context], Message]:
    """Turn a failure into an error reply with its reason: one client never ends a run."""

    def answer(message: Message, context: Context) -> Message:
        try:
            content = handle(_member(recipe, int(context.node_config["partition-id"])), message, context)
            name_round(message, content)
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
def _member(recipe: ShardRecipe, partition: int) -> _Member:
    shards = recipe.open()
    return _Member(partition, Node(shards.task, shards[partition], _trainer(recipe)))


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


def _train(member: _Member, message: Message, context: Context) -> RecordDict:
    began = time.perf_counter()
    update, memory = train(
        member.node,
        _arrays(message),
        read_constants(message),
        read_assignment(message, member.partition),
        Orders.from_config(message.content.config_records["config"]),
        _memory(context),
    )
    if memory:
        context.state[MEMORY] = to_record(memory)
    return update_content(update, time.perf_counter() - began)


def _evaluate(member: _Member, message: Message, context: Context) -> RecordDict:
    began = time.perf_counter()
    result = member.node.evaluate(_arrays(message), read_constants(message))
    return evaluation_content(result, time.perf_counter() - began)


def read_assignment(message: Message, partition: int) -> Assignment:
    """What a `train` message asks of the node with this partition."""
    config: Any = message.content["config"]
    return Assignment(
        training=Training.from_config(config),
        seed=derive_seed(int(_number(config, "seed")), int(_number(config, ROUND)), partition),
        proximal_mu=_number(config, "proximal-mu", 0.0),
    )


def update_content(update: Update, seconds: float) -> RecordDict:
    """The content of a reply to `train`."""
    metrics = {**update.metrics, "num-examples": update.examples, "seconds": seconds}
    content = RecordDict({"arrays": to_record(update.arrays), "metrics": MetricRecord(dict(metrics))})
    if update.warnings:
        content["warnings"] = ConfigRecord({"warnings": list(update.warnings)})
    return content


def evaluation_content(result: Evaluation, seconds: float) -> RecordDict:
    """The content of a reply to `evaluate`."""
    metrics = {**result.metrics, "loss": result.loss, "num-examples": result.examples, "seconds": seconds}
    return RecordDict({"metrics": MetricRecord(dict(metrics))})


def name_round(message: Message, content: RecordDict) -> None:
    """Say which round is answered, so that a reply that comes too late is known as such."""
    config = message.content.get("config")
    if isinstance(config, ConfigRecord) and isinstance(asked := config.get(ROUND), int):
        content[ROUND] = ConfigRecord({ROUND: asked})


def _arrays(message: Message) -> Arrays:
    return from_record(message.content.array_records["arrays"])


def _memory(context: Context) -> Arrays:
    """What the client keeps from round to round."""
    record = context.state.array_records.get(MEMORY)
    return {} if record is None else from_record(record)


def read_constants(message: Message) -> Arrays:
    """The preprocessing constants that came with a message; empty for none."""
    record = message.content.array_records.get("preprocess")
    return {} if record is None else from_record(record)


def _number(config: ConfigRecord, key: str, default: float | None = None) -> float:
    value: Any = config.get(key, default)
    return float(value)
