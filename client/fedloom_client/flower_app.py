"""A node as a Flower ClientApp: a thin adapter over a Trainer, the same on every engine."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedloom_client.preprocess import prepare
from fedloom_client.samples import Shard
from fedloom_client.seeds import derive_seed
from fedloom_client.shards import ShardRecipe
from fedloom_client.trainer import Assignment, Trainer
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.errors import FedloomError

CLIENT_FAILED = 1
"""Error code of a reply whose reason is a sentence for the operator."""
ROUND = "server-round"
"""Key of the round in a message's settings, and of the ConfigRecord and its value in a reply."""


def make_client_app(recipe: ShardRecipe, mods: list[Mod] | None = None) -> ClientApp:
    """A ClientApp whose node `partition-id` (of its node config) trains on that shard of `recipe`.

    It answers `query` (examples and the preprocessing summary), `train` and `evaluate`.
    """
    app = ClientApp()
    app.query()(_guarded(recipe, _describe))
    app.train(mods=mods)(_guarded(recipe, _train))
    app.evaluate()(_guarded(recipe, _evaluate))
    return app


Handler = Callable[["Node", Message], RecordDict]


def _guarded(recipe: ShardRecipe, handle: Handler) -> Callable[[Message, Context], Message]:
    """Turn a failure into an error reply with its reason: one client never ends a run."""

    def answer(message: Message, context: Context) -> Message:
        try:
            content = handle(_node(recipe, int(context.node_config["partition-id"])), message)
            _name_round(message, content)
        except FedloomError as error:
            return Message(Error(CLIENT_FAILED, str(error)), reply_to=message)
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything)
            return Message(Error(CLIENT_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
        return Message(content, reply_to=message)

    return answer


class Node:
    """One client: its shard, made ready once, and its trainer."""

    def __init__(self, recipe: ShardRecipe, partition: int) -> None:
        shards = recipe.open()
        self.task = shards.task
        self.partition = partition
        self.raw = shards[partition]
        self.trainer = _trainer(recipe)
        self._ready: tuple[str, Shard] | None = None

    def shard(self, constants: Arrays) -> Shard:
        """The shard with preprocessing applied, kept until the constants change."""
        if self.task.preprocess is None:
            return self.raw
        key = arrays_sha256(constants)
        if self._ready is None or self._ready[0] != key:
            parts = (
                prepare(part, self.task.preprocess, constants)
                for part in (self.raw.train, self.raw.validation)
            )
            self._ready = (key, Shard(*parts))
        return self._ready[1]


@lru_cache(maxsize=1024)
def _node(recipe: ShardRecipe, partition: int) -> Node:
    return Node(recipe, partition)


@lru_cache(maxsize=4)
def _trainer(recipe: ShardRecipe) -> Trainer:
    from fedloom_client.torch_trainer import TorchTrainer  # torch is imported where it trains

    return TorchTrainer(recipe.open().task)


def _describe(node: Node, message: Message) -> RecordDict:
    preprocess = node.task.preprocess
    summary = {} if preprocess is None else preprocess.summarise(node.raw.train)
    facts: dict[str, Any] = {
        "partition-id": node.partition,
        "num-examples": len(node.raw.train),
        "validation-examples": len(node.raw.validation),
    }
    return RecordDict({"summary": to_record(summary), "metrics": MetricRecord(facts)})


def _train(node: Node, message: Message) -> RecordDict:
    began = time.perf_counter()
    config = message.content.config_records["config"]
    assignment = Assignment(
        training=Training.from_config(config),
        seed=derive_seed(int(_number(config, "seed")), int(_number(config, ROUND)), node.partition),
        proximal_mu=_number(config, "proximal-mu", 0.0),
    )
    shard = node.shard(_constants(message))
    update = node.trainer.fit(from_record(message.content.array_records["arrays"]), shard, assignment)
    metrics = {**update.metrics, "num-examples": update.examples, "seconds": time.perf_counter() - began}
    content = RecordDict({"arrays": to_record(update.arrays), "metrics": MetricRecord(dict(metrics))})
    if update.warnings:
        content["warnings"] = ConfigRecord({"warnings": list(update.warnings)})
    return content


def _evaluate(node: Node, message: Message) -> RecordDict:
    began = time.perf_counter()
    samples = node.shard(_constants(message)).validation
    result = node.trainer.evaluate(from_record(message.content.array_records["arrays"]), samples)
    metrics = {**result.metrics, "loss": result.loss, "num-examples": result.examples}
    metrics["seconds"] = time.perf_counter() - began
    return RecordDict({"metrics": MetricRecord(dict(metrics))})


def _name_round(message: Message, content: RecordDict) -> None:
    """Say which round is answered, so that a reply that comes too late is known as such."""
    config = message.content.config_records.get("config")
    if config is not None and isinstance(asked := config.get(ROUND), int):
        content[ROUND] = ConfigRecord({ROUND: asked})


def _constants(message: Message) -> Arrays:
    record = message.content.array_records.get("preprocess")
    return {} if record is None else from_record(record)


def _number(config: ConfigRecord, key: str, default: float | None = None) -> float:
    value: Any = config.get(key, default)
    return float(value)


def to_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as a Flower record, names and order kept."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """A Flower record as arrays, names and order kept."""
    return {name: array.numpy() for name, array in record.items()}
