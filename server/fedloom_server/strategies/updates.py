"""A round's accepted updates on their way to a strategy: folded into their mean, or kept one by one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from numpy.typing import NDArray

from fedloom_client.flower.records import from_record, put_arrays, select, to_record
from fedloom_client.secure.ring import Total
from fedloom_edge.arrays import Arrays
from fedloom_server.guard.norms import bucket
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_server.strategies.exact_mean import ExactMean

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

    def add(self, client: int, reply: Message, norm: float) -> None:
        """Take in one client's reply to `train`; `norm` is that of its difference to the global arrays."""
        ...

    def add_stack(self, clients: Sequence[int], stack: StackedReplies, norms: Mapping[int, float]) -> None:
        """Take in the replies of some of `clients`: `norms` has theirs by place in the stack."""
        ...

    def settle(self, highest: int, clip: bool) -> None:
        """All replies are in: clip those in a bucket of norms beyond `highest`, or leave them out."""
        ...

    def for_strategy(self) -> tuple[list[Message], Arrays]:
        """Replies with trained arrays for `aggregate_train`, and the mean of the measured statistics."""
        ...

    def state(self, put: Callable[[Arrays], str]) -> dict[str, Any]:
        """What is in, as JSON values; `put` keeps arrays and gives their hash."""
        ...

    def restore(
        self, state: Mapping[str, Any], get: Callable[[str], Arrays], metrics: Mapping[int, dict[str, Any]]
    ) -> None:
        """Take over what `state` gave; `metrics` are the figures of each client that is in."""
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


def uses_evaluations(strategy: Strategy) -> bool:
    """Whether a strategy does more with evaluations than average them, which the federation does itself."""
    aggregate = getattr(strategy, "evaluate_metrics_aggr_fn", None)
    return type(strategy) not in _ONLY_MEAN or aggregate is not aggregate_metricrecords


def collect(strategy: Strategy, arrays: Arrays, statistics: frozenset[str], largest_weight: int) -> Updates:
    """Where a round's updates of the global `arrays` go under `strategy`.

    `statistics` names arrays that are averaged beside the strategy and never shown to it.
    """
    if uses_only_mean(strategy):
        if getattr(strategy, "uniform_weights", False):
            return MeanOfUpdates(arrays, statistics, 1, uniform=True)
        return MeanOfUpdates(arrays, statistics, largest_weight)
    return AllUpdates(arrays, statistics, largest_weight)


class MeanOfUpdates:
    """Folds every reply into the exact mean and forgets it: memory does not grow with the clients.

    There is one sum for each half-octave of norms (a handful in a round), so that outliers can be left
    out or scaled down when the whole round's norms are known. Sums of whole numbers merge without a
    trace: the mean is that of a round in which the outliers never were.

    The strategy is given one reply that holds the mean and the total number of examples. FedAvg's own
    mean of one reply is that reply: its weight is `n / n == 1.0`, and `x * 1.0 == x` in x's dtype.
    """

    def __init__(
        self, arrays: Arrays, statistics: frozenset[str], largest_weight: int, *, uniform: bool = False
    ) -> None:
        self._arrays = arrays
        self._largest_weight = largest_weight
        self._statistics = statistics
        self._weights = {WEIGHT: 1} if uniform else {}
        self._sums: dict[int, ExactMean] = {}
        self._scaled: list[tuple[ExactMean, float]] = []
        self._metrics: dict[int, dict[int, dict[str, Any]]] = {}

    def add(self, client: int, reply: Message, norm: float) -> None:
        """Fold in one client's reply."""
        content: Any = reply.content
        metrics: dict[str, Any] = {**content["metrics"], **self._weights}
        level = bucket(norm)
        self._sum(level).add(from_record(content["arrays"]), metrics[WEIGHT])
        self._metrics.setdefault(level, {})[client] = metrics

    def add_stack(self, clients: Sequence[int], stack: StackedReplies, norms: Mapping[int, float]) -> None:
        """Fold in many clients' replies, those of a bucket at once."""
        levels: dict[int, list[int]] = {}
        for k, norm in norms.items():
            levels.setdefault(bucket(norm), []).append(k)
        for level, places in levels.items():
            whole = len(places) == len(clients)
            arrays = stack.arrays if whole else {name: a[places] for name, a in stack.arrays.items()}
            self._sum(level).add_stack(arrays, [stack.metrics[k][WEIGHT] for k in places])
            self._metrics.setdefault(level, {}).update({clients[k]: stack.metrics[k] for k in places})

    def settle(self, highest: int, clip: bool) -> None:
        """Clip, or leave out, the sums of buckets beyond `highest`."""
        for level in sorted(level for level in self._sums if level > highest):
            beyond = self._sums.pop(level)
            if clip:
                self._scaled.append((beyond, clip_factor(level, highest)))
            else:
                del self._metrics[level]

    def for_strategy(self) -> tuple[list[Message], Arrays]:
        """One reply: the mean; and the mean of the statistics."""
        rows = [row for level in self._metrics.values() for row in level.values()]
        if not rows:
            return [], {}
        total, *others = self._sums.values() or [ExactMean(self._arrays, self._largest_weight)]
        for part in others:
            total.merge(part)
        mean = total.mean(self._scaled)
        metrics: dict[str, Any] = {WEIGHT: sum(row[WEIGHT] for row in rows), **mean_metrics(rows)}
        return _one_reply(mean, self._statistics, metrics)

    def state(self, put: Callable[[Arrays], str]) -> dict[str, Any]:
        """The sums by bucket, and who is in which."""
        return {
            str(level): {"arrays": put(part.state()), "clients": sorted(self._metrics[level])}
            for level, part in sorted(self._sums.items())
        }

    def restore(
        self, state: Mapping[str, Any], get: Callable[[str], Arrays], metrics: Mapping[int, dict[str, Any]]
    ) -> None:
        """Take over sums and figures."""
        for level, part in state.items():
            self._sum(int(level)).restore(get(part["arrays"]))
            self._metrics[int(level)] = {
                client: {**metrics[client], **self._weights} for client in part["clients"]
            }

    def _sum(self, level: int) -> ExactMean:
        if level not in self._sums:
            self._sums[level] = ExactMean(self._arrays, self._largest_weight)
        return self._sums[level]


class AllUpdates:
    """Keeps every reply for a strategy that needs each of them (medians, Krum, clipping)."""

    def __init__(self, arrays: Arrays, statistics: frozenset[str], largest_weight: int) -> None:
        self._arrays = arrays
        self._replies: dict[int, Message] = {}
        self._levels: dict[int, int] = {}
        self._kept: dict[int, str] = {}
        self._statistics = statistics
        measured = {name: array for name, array in arrays.items() if name in statistics}
        self._mean = ExactMean(measured, largest_weight)

    def add(self, client: int, reply: Message, norm: float) -> None:
        """Keep one client's reply."""
        self._replies[client] = reply
        self._levels[client] = bucket(norm)

    def add_stack(self, clients: Sequence[int], stack: StackedReplies, norms: Mapping[int, float]) -> None:
        """Keep many clients' replies."""
        for k, norm in norms.items():
            self.add(clients[k], stack.message(k), norm)

    def settle(self, highest: int, clip: bool) -> None:
        """Clip, or leave out, the replies in buckets beyond `highest`."""
        for client in [client for client, level in self._levels.items() if level > highest]:
            if clip:
                factor = clip_factor(self._levels[client], highest)
                arrays = from_record(self._replies[client].content.array_records["arrays"])
                clipped = {name: towards(self._arrays[name], array, factor) for name, array in arrays.items()}
                put_arrays(self._replies[client].content, to_record(clipped))
            else:
                del self._replies[client]

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
            put_arrays(reply.content, trained)
        return replies, self._mean.mean()

    def state(self, put: Callable[[Arrays], str]) -> dict[str, Any]:
        """Each client's arrays, each written once."""
        for client in self._replies.keys() - self._kept.keys():
            self._kept[client] = put(from_record(self._replies[client].content.array_records["arrays"]))
        return {
            str(client): {"arrays": digest, "level": self._levels[client]}
            for client, digest in sorted(self._kept.items())
        }

    def restore(
        self, state: Mapping[str, Any], get: Callable[[str], Arrays], metrics: Mapping[int, dict[str, Any]]
    ) -> None:
        """Take over replies: a strategy looks at nothing but arrays and metrics."""
        for name, part in state.items():
            client = int(name)
            content = RecordDict({"arrays": to_record(get(part["arrays"]))})
            content["metrics"] = MetricRecord(metrics[client])
            self._replies[client] = Message(content, 1, MessageType.TRAIN)
            self._kept[client], self._levels[client] = part["arrays"], part["level"]


def total_for_strategy(total: Total, statistics: frozenset[str]) -> tuple[list[Message], Arrays]:
    """What secure aggregation made of all updates, as `MeanOfUpdates.for_strategy` gives it."""
    return _one_reply(total.arrays, statistics, {WEIGHT: total.examples, "train-loss": total.loss})


def _one_reply(
    mean: Arrays, statistics: frozenset[str], metrics: dict[str, Any]
) -> tuple[list[Message], Arrays]:
    trained = {name: array for name, array in mean.items() if name not in statistics}
    content = RecordDict({"arrays": to_record(trained), "metrics": MetricRecord(metrics)})
    return [Message(content, 1, MessageType.TRAIN)], {name: mean[name] for name in statistics}


def clip_factor(level: int, highest: int) -> float:
    """What brings every norm of bucket `level` down to the limit of bucket `highest`."""
    return float(2.0 ** ((highest - level) / 2))


def towards(origin: NDArray[Any], array: NDArray[Any], factor: float) -> NDArray[Any]:
    """`array` with its difference to `origin` scaled by `factor`, of its own dtype."""
    moved = origin + factor * (array.astype(np.float64) - origin)
    return np.asarray(moved, dtype=array.dtype)


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
