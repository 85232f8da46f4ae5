"""A round's accepted updates on their way to a strategy: folded into their mean, or kept one by one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fedloom_client.records import from_record, select, to_record
from fedloom_edge.arrays import Arrays
from fedloom_server.exact_mean import ExactMean

WEIGHT = "num-examples"
_ONLY_MEAN = (
    flower.FedAvg,
    flower.FedProx,
    flower.FedAvgM,
    flower.FedAdagrad,
    flower.FedAdam,
    flower.FedYogi,
)


class Updates(Protocol):
    """Takes accepted replies in the order of arrival. A protocol, because what must be kept varies."""

    def add(self, client: int, reply: Message) -> None:
        """Take in one client's reply to `train`."""
        ...

    def for_strategy(self) -> tuple[list[Message], Arrays]:
        """Replies with trained arrays for `aggregate_train`, and the mean of the measured statistics."""
        ...


def uses_only_mean(strategy: Strategy) -> bool:
    """Whether a strategy needs nothing of the updates but their weighted mean.

    True for Flower's strategies that call FedAvg's aggregation once and work on what it gives, and for
    any other that says so with an attribute `only_weighted_mean = True`.
    """
    if getattr(strategy, "only_weighted_mean", False):
        return True
    aggregate = getattr(strategy, "train_metrics_aggr_fn", None)
    return type(strategy) in _ONLY_MEAN and aggregate is aggregate_metricrecords


def collect(strategy: Strategy, arrays: Arrays, statistics: frozenset[str], largest_weight: int) -> Updates:
    """Where a round's updates of the global `arrays` go under `strategy`.

    `statistics` names arrays that are averaged beside the strategy and never shown to it.
    """
    if uses_only_mean(strategy):
        return MeanOfUpdates(arrays, statistics, largest_weight)
    return AllUpdates(arrays, statistics, largest_weight)


class MeanOfUpdates:
    """Folds every reply into the exact mean and forgets it: memory does not grow with the clients.

    The strategy is given one reply that holds the mean and the total number of examples. FedAvg's own
    mean of one reply is that reply: its weight is `n / n == 1.0`, and `x * 1.0 == x` in x's dtype.
    """

    def __init__(self, arrays: Arrays, statistics: frozenset[str], largest_weight: int) -> None:
        self._mean = ExactMean(arrays, largest_weight)
        self._statistics = statistics
        self._metrics: dict[int, dict[str, Any]] = {}

    def add(self, client: int, reply: Message) -> None:
        """Fold in one client's reply."""
        content: Any = reply.content
        metrics: dict[str, Any] = dict(content["metrics"])
        self._mean.add(from_record(content["arrays"]), metrics[WEIGHT])
        self._metrics[client] = metrics

    def for_strategy(self) -> tuple[list[Message], Arrays]:
        """One reply: the mean; and the mean of the statistics."""
        if not self._metrics:
            return [], {}
        mean = self._mean.mean()
        trained = {name: array for name, array in mean.items() if name not in self._statistics}
        metrics: dict[str, Any] = {WEIGHT: self._mean.weight, **mean_metrics(list(self._metrics.values()))}
        content = RecordDict({"arrays": to_record(trained), "metrics": MetricRecord(metrics)})
        return [Message(content, 1, MessageType.TRAIN)], {name: mean[name] for name in self._statistics}


class AllUpdates:
    """Keeps every reply for a strategy that needs each of them (medians, Krum, clipping)."""

    def __init__(self, arrays: Arrays, statistics: frozenset[str], largest_weight: int) -> None:
        self._replies: dict[int, Message] = {}
        self._statistics = statistics
        measured = {name: array for name, array in arrays.items() if name in statistics}
        self._mean = ExactMean(measured, largest_weight)

    def add(self, client: int, reply: Message) -> None:
        """Keep one client's reply."""
        self._replies[client] = reply

    def for_strategy(self) -> tuple[list[Message], Arrays]:
        """Every reply in the order of the shards, so that sums do not depend on arrival."""
        replies = same_metrics([self._replies[client] for client in sorted(self._replies)])
        if not self._statistics or not replies:
            return replies, {}
        for reply in replies:
            record = reply.content.array_records["arrays"]
            trained, rest = split_statistics(record, self._statistics)
            weight: Any = reply.content.metric_records["metrics"][WEIGHT]
            self._mean.add(from_record(rest), weight)
            reply.content["arrays"] = trained
        return replies, self._mean.mean()


def split_statistics(record: ArrayRecord, statistics: frozenset[str]) -> tuple[ArrayRecord, ArrayRecord]:
    """A record's trained arrays and its statistics, without copying either."""
    trained = select(record, [name for name in record if name not in statistics])
    return trained, select(record, [name for name in record if name in statistics])


def mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means, weighted by examples, of the metrics that every row has; the order of rows does not matter."""
    total = sum(row[WEIGHT] for row in rows)
    return {
        name: math.fsum(row[WEIGHT] * row[name] for row in rows) / total
        for name in _common([list(row) for row in rows])
        if name != WEIGHT
    }


def same_metrics(replies: list[Message]) -> list[Message]:
    """The replies with the metrics that all of them have: Flower ends a run where they differ."""
    records = [reply.content.metric_records["metrics"] for reply in replies]
    names = _common([list(record) for record in records])
    for reply, record in zip(replies, records, strict=True):
        if list(record) != names:
            reply.content["metrics"] = MetricRecord({name: record[name] for name in names})
    return replies


def _common(keys: Sequence[Sequence[str]]) -> list[str]:
    """Names in all of `keys`, sorted."""
    return sorted(set(keys[0]).intersection(*keys[1:])) if keys else []
