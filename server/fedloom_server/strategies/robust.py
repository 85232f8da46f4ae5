"""Robust strategies that Flower does not have: the geometric median, centred clipping, and FLAME."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedloom_client.flower.records import from_record, to_record
from fedloom_edge.arrays import Arrays

Vector = NDArray[np.float64]
_LEAST = 1e-12  # length of an update that is taken for none


class _OfUpdates(FedAvg):
    """A strategy that moves the global arrays by some centre of the clients' differences to them."""

    _origin: Arrays

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the global arrays; the rest is FedAvg's."""
        self._origin = from_record(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The global arrays moved by the centre of the replies' differences to them."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        origin = _flat(self._origin)
        points = [_flat(_arrays(reply)) - origin for reply in valid]
        centre = self._centre_of(points, [float(_weight(reply)) for reply in valid])
        metrics = self.train_metrics_aggr_fn([reply.content for reply in valid], self.weighted_by_key)
        return to_record(_like(self._origin, origin + centre)), metrics

    def _centre_of(self, points: Sequence[Vector], weights: Sequence[float]) -> Vector:
        raise NotImplementedError


class GeometricMedian(_OfUpdates):
    """RFA: the point with the least weighted sum of distances to the updates.

    Smoothed Weiszfeld iterations of Pillutla, Kakade & Harchaoui (2022, "Robust aggregation for
    federated learning", algorithm 2). Up to half of the weight may be corrupt. An update weighs as
    many as its examples, of which the guard bounds the number.
    """

    def __init__(
        self,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        iterations: int = 10,
        smoothing: float = 1e-6,
    ) -> None:
        """`iterations` of Weiszfeld's, at least 1; `smoothing` is the least distance, > 0."""
        super().__init__(
            fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        )
        if iterations < 1 or not smoothing > 0:
            raise ValueError("iterations must be at least 1 and smoothing positive")
        self.iterations, self.smoothing = iterations, smoothing

    def _centre_of(self, points: Sequence[Vector], weights: Sequence[float]) -> Vector:
        return geometric_median(points, weights, self.iterations, self.smoothing)


class CentredClipping(_OfUpdates):
    """The mean of updates clipped around the last round's mean.

    Karimireddy, He & Jaggi (2021, "Learning from history for Byzantine robust optimization", algorithm
    2): `v <- v + mean(min(1, radius / |x_i - v|) * (x_i - v))`, from the v of the round before. An x_i is
    a client's difference to the global arrays.
    """

    def __init__(
        self,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        radius: float = 0.0,
        iterations: int = 3,
    ) -> None:
        """`radius` > 0, or 0 for the median distance in each iteration; `iterations` at least 1."""
        super().__init__(
            fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        )
        if iterations < 1 or radius < 0:
            raise ValueError("iterations must be at least 1 and radius at least 0")
        self.radius, self.iterations = radius, iterations
        self._centre: Arrays = {}

    def _centre_of(self, points: Sequence[Vector], weights: Sequence[float]) -> Vector:
        start = _flat(self._centre) if self._centre else np.zeros_like(points[0])
        centre = centred_clipping(points, start, self.radius, self.iterations)
        self._centre = _like(self._origin, centre, np.float64)
        return centre

    def state(self) -> Arrays:
        """The mean of the last round."""
        return dict(self._centre)

    def restore(self, state: Arrays) -> None:
        """Take over what `state` gave."""
        self._centre = dict(state)


class Flame(_OfUpdates):
    """FLAME: the mean of the updates that point the same way, none longer than the median.

    Filter and clipping of Nguyen et al. (2022, "FLAME: taming backdoors in federated learning",
    algorithm 1), with the cosine of differences to the global arrays. Their noise is left out: a
    wrapper `dp-server-fixed` adds it, with a budget. All updates count the same. More than half of the
    clients must be honest.
    """

    def _centre_of(self, points: Sequence[Vector], weights: Sequence[float]) -> Vector:
        return flame(points)


def geometric_median(
    points: Sequence[Vector], weights: Sequence[float], iterations: int, smoothing: float
) -> Vector:
    """The smoothed geometric median (P,) of points (P,), from their weighted mean."""
    factors = list(weights)
    centre = points[0]
    for _ in range(iterations + 1):
        total = sum(factors)
        centre = sum(
            (factor / total * point for factor, point in zip(factors, points, strict=True)), 0.0 * centre
        )
        factors = [
            weight / max(smoothing, _norm(point - centre))
            for weight, point in zip(weights, points, strict=True)
        ]
    return centre


def centred_clipping(points: Sequence[Vector], start: Vector, radius: float, iterations: int) -> Vector:
    """The centre (P,) of points (P,) after iterations from `start`; radius 0 is the median distance."""
    centre = start
    for _ in range(iterations):
        distances = [_norm(point - centre) for point in points]
        bound = radius or median(distances)
        move = np.zeros_like(centre)
        for point, distance in zip(points, distances, strict=True):
            move += min(1.0, bound / distance if distance else 1.0) * (point - centre)
        centre = centre + move / len(points)
    return centre


def flame(points: Sequence[Vector]) -> Vector:
    """The mean (P,) of those points (P,) in the largest cluster by cosine, cut to the median length.

    The cluster has more than half of the points; all are taken where HDBSCAN (Campello, Moulavi &
    Sander, 2013) finds none.
    """
    from sklearn.cluster import HDBSCAN  # takes longer to import than the rest of the coordinator

    lengths = np.array([_norm(point) for point in points])
    units = [point / max(length, _LEAST) for point, length in zip(points, lengths, strict=True)]
    cosines = np.array([[np.dot(one, other) for other in units] for one in units])
    kept = np.full(len(points), True)
    if len(points) > 2:  # of two, neither is the majority
        cluster = HDBSCAN(
            min_cluster_size=len(points) // 2 + 1,
            min_samples=1,
            metric="precomputed",
            allow_single_cluster=True,
            copy=True,
        ).fit_predict(np.clip(1 - cosines, 0, 2))
        kept = cluster >= 0 if (cluster >= 0).any() else kept
    factors = kept * np.minimum(1, median(lengths) / np.maximum(lengths, _LEAST)) / kept.sum()
    return sum((factor * point for factor, point in zip(factors, points, strict=True)), 0.0 * points[0])


def _arrays(reply: Message) -> Arrays:
    return from_record(reply.content.array_records["arrays"])


def _weight(reply: Message) -> Any:
    return reply.content.metric_records["metrics"]["num-examples"]


def _flat(arrays: Arrays) -> Vector:
    return np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays.values()])


def _like(layout: Arrays, flat: Vector, dtype: Any = None) -> Arrays:
    """A flat vector cut into named arrays of the layout's shapes, in its dtypes or in `dtype`."""
    ends = np.cumsum([array.size for array in layout.values()])[:-1]
    parts = np.split(flat, ends)
    return {
        name: part.reshape(array.shape).astype(dtype or array.dtype)
        for (name, array), part in zip(layout.items(), parts, strict=True)
    }


def _norm(vector: Vector) -> float:
    return math.sqrt(float(np.dot(vector, vector)))
