"""What a Flower message asks of a node, and what a node's reply says."""

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedloom_client.flower.records import arrays_in, to_record
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays

CLIENT_FAILED = 1
"""Error code of a reply whose reason is a sentence for the operator."""
ROUND = "server-round"
"""Key of the round in a message's settings, and of the ConfigRecord and its value in a reply."""


def read_assignment(message: Message, partition: int) -> Assignment:
    """What a `train` message asks of the node with this partition."""
    config: Any = message.content["config"]
    return Assignment(
        training=Training.from_config(config),
        seed=read_seed(message, partition),
        proximal_mu=_number(config, "proximal-mu", 0.0),
    )


def read_seed(message: Message, partition: int) -> int:
    """The seed of an assignment."""
    config: Any = message.content["config"]
    return derive_seed(int(_number(config, "seed")), int(_number(config, ROUND)), partition)


def read_constants(message: Message) -> Arrays:
    """The preprocessing constants that came with a message; empty for none."""
    return arrays_in(message.content, "preprocess")


def update_metrics(update: Update, seconds: float) -> dict[str, Any]:
    """What a reply to `train` reports."""
    return {**update.metrics, "num-examples": update.examples, "seconds": seconds}


def evaluation_metrics(result: Evaluation, seconds: float) -> dict[str, Any]:
    """What a reply to `evaluate` reports."""
    return {**result.metrics, "loss": result.loss, "num-examples": result.examples, "seconds": seconds}


def reply_content(
    question: Message, metrics: Mapping[str, Any], arrays: Arrays | None = None, warnings: Sequence[str] = ()
) -> RecordDict:
    """The content of a reply. It says which round it answers, so that one that comes late is known."""
    content = RecordDict()
    if arrays:
        content["arrays"] = to_record(arrays)
    content["metrics"] = MetricRecord(dict(metrics))
    if warnings:
        content["warnings"] = ConfigRecord({"warnings": list(warnings)})
    config = question.content.get("config")
    if isinstance(config, ConfigRecord) and isinstance(asked := config.get(ROUND), int):
        content[ROUND] = ConfigRecord({ROUND: asked})
    return content


def _number(config: ConfigRecord, key: str, default: float | None = None) -> float:
    value: Any = config.get(key, default)
    return float(value)
