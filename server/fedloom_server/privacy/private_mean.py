"""Central differential privacy of clients: every update clipped, the sum noised once, then any server step.

McMahan, Ramage, Talwar and Zhang (2018, "Learning differentially private recurrent language models",
algorithm 1) with their fixed denominator; clipping that adapts by Andrew, Thakkar, McMahan and Ramaswamy
(2021, "Differentially private learning with adaptive clipping", algorithm 1).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloom_client.flower.records import from_record, to_record
from fedloom_client.noise import Noise
from fedloom_client.seeds import derive_seed
from fedloom_client.update_privacy import CLIPPED, UpdatePrivacy, clipped_difference, moved
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_server.rounds.roster import OrderedGrid
from fedloom_server.strategies.updates import WEIGHT, mean_metrics, split_statistics

Where = Literal["server", "client"]
_WHOLE = 2.0**63


@dataclass(frozen=True, kw_only=True)
class FixedClipping:
    """A bound that stays.

    Attributes:
        noise_multiplier: standard deviation of the noise on the sum, as a multiple of the bound.
        clipping_norm: bound on the norm of an update.
    """

    noise_multiplier: float
    clipping_norm: float

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, self.clipping_norm)

    @property
    def first_norm(self) -> float:
        """The first round's bound."""
        return self.clipping_norm

    def noise_on_sum(self, expected: float) -> float:
        """Of the noise that is asked for, what goes on the sum: all of it."""
        return self.noise_multiplier

    def next_norm(self, norm: float, clipped: int, total: int, expected: float, source: Noise) -> float:
        """The next round's bound."""
        return norm


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """A bound that moves towards the quantile at which the wanted share of the updates is clipped.

    Attributes:
        noise_multiplier: of the round's whole release, the noisy sum and the noisy count together.
        initial_clipping_norm: bound of the first round.
        target_clipped_quantile: share of the updates that should be clipped.
        clip_norm_lr: how fast the bound moves: by a factor of e to its power at most in a round.
        clipped_count_stddev: standard deviation of the noise on the count; None for a twentieth of the
            clients expected in a round.
    """

    noise_multiplier: float
    initial_clipping_norm: float = 0.1
    target_clipped_quantile: float = 0.5
    clip_norm_lr: float = 0.2
    clipped_count_stddev: float | None = None

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, self.initial_clipping_norm)
        quantile, deviation = self.target_clipped_quantile, self.clipped_count_stddev
        if not (0 <= quantile <= 1 and self.clip_norm_lr > 0 and (deviation is None or deviation > 0)):
            raise ValueError(
                "target_clipped_quantile must be from 0 to 1, clip_norm_lr above 0 and "
                "clipped_count_stddev above 0"
            )

    @property
    def first_norm(self) -> float:
        """The first round's bound."""
        return self.initial_clipping_norm

    def noise_on_sum(self, expected: float) -> float:
        """So that sum and count together cost what `noise_multiplier` alone would (theorem 1)."""
        if not self.noise_multiplier:
            return 0.0
        left = self.noise_multiplier**-2 - (2 * self._deviation(expected)) ** -2
        if left <= 0:
            raise ValueError(
                f"noise_multiplier must be below twice clipped_count_stddev, {self._deviation(expected):g} "
                f"with {expected:g} clients a round; raise clipped_count_stddev"
            )
        return float(left**-0.5)

    def next_norm(self, norm: float, clipped: int, total: int, expected: float, source: Noise) -> float:
        """The next round's bound, by a noisy share of the updates that were clipped.

        What is summed is 1/2 for a clipped update and -1/2 for another, so that one client changes it by 1/2.
        """
        deviation = self._deviation(expected) if self.noise_multiplier else 0.0
        noisy = clipped - total / 2 + float(source.normal((1,), deviation)[0])
        share = min(max(noisy / expected + 0.5, 0.0), 1.0)
        return norm * math.exp(self.clip_norm_lr * (share - self.target_clipped_quantile))

    def _deviation(self, expected: float) -> float:
        return expected / 20 if self.clipped_count_stddev is None else self.clipped_count_stddev


def _check(noise: float, norm: float) -> None:
    if not (noise >= 0 and norm > 0 and math.isfinite(noise) and math.isfinite(norm)):
        raise ValueError("noise_multiplier must not be negative and clipping norms must be above 0")


class PrivateMean(Strategy):
    """Gives a strategy one update to work on: the noisy mean of clipped updates.

    Each client takes part in a round by a coin of its own (Poisson sampling), and the sum is divided by the
    *expected* number of clients: so one client changes the mean by the bound over that number at most,
    whoever else takes part or fails. All clients count alike. Everything after the noise, a server
    optimiser's step too, costs nothing.

    Args:
        strategy: works on nothing but the mean of the updates.
        clipping: the bound and the noise.
        clients: nodes in the federation.
        rate: probability with which a client takes part in a round, in (0, 1].
        where: who clips; what clients have clipped is clipped again, which changes nothing where they
            did as they were asked.

    Attributes:
        key: what coins and, in a simulation, noise follow from; secret where it matters.
        seeded: whether the noise follows from the key and from what is noised, or is the operating
            system's. The same noise never goes on two different sums, whose difference would be bare.
        statistics: names of measured arrays that the strategy is not shown, as a server optimiser must not
            be: their noisy mean is what they become.
    """

    def __init__(
        self,
        strategy: Strategy,
        clipping: FixedClipping | AdaptiveClipping,
        clients: int,
        rate: float = 1.0,
        where: Where = "server",
    ) -> None:
        """Raises ValueError where the options do not go together."""
        if not 0 < rate <= 1:
            raise ValueError(f"fraction_train is {rate:g}; it must be above 0 and at most 1")
        self.strategy = strategy
        self.clipping = clipping
        self.rate = rate
        self.where = where
        self.expected = rate * clients
        self.clipping_norm = clipping.first_norm
        self.noise_on_sum = clipping.noise_on_sum(self.expected)
        self.key, self.seeded = 0, True
        self.statistics: frozenset[str] = frozenset()
        self._arrays: Arrays = {}

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of a round's whole release over its sensitivity."""
        return self.clipping.noise_multiplier

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's messages to all nodes, of which each is kept by its node's own coin."""
        self._arrays = from_record(arrays)
        if self.where == "client":
            config = ConfigRecord({**config, **UpdatePrivacy(clip=self.clipping_norm).to_config()})
        trained, _ = split_statistics(arrays, self.statistics)
        messages = self.strategy.configure_train(server_round, trained, config, grid)
        attempt: Any = config.get("attempt", 1)
        # A shard has the same index on every engine, a node another id.
        index = grid.client_of if isinstance(grid, OrderedGrid) else int
        return [m for m in messages if self._drawn(server_round, int(attempt), index(m.metadata.dst_node_id))]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, add up, add noise, divide; then the strategy's own step. No reply is a reply too."""
        total = {name: np.zeros(array.shape) for name, array in self._arrays.items()}
        rows: list[dict[str, Any]] = []
        clipped = 0
        for reply in replies:
            figures: Any = dict(reply.content.metric_records["metrics"])
            sent = from_record(reply.content.array_records["arrays"])
            difference, beyond = clipped_difference(self._arrays, sent, self.clipping_norm)
            clipped += int(figures.get(CLIPPED, 0) >= 0.5 if self.where == "client" else beyond)
            for name, array in difference.items():
                total[name] += array
            rows.append(figures)
        source = Noise(derive_seed(self.key, server_round, arrays_sha256(total)) if self.seeded else None)
        noisy = source.added(total, self.noise_on_sum * self.clipping_norm)
        mean = moved(self._arrays, {name: array / self.expected for name, array in noisy.items()})
        self.clipping_norm = self.clipping.next_norm(
            self.clipping_norm, clipped, len(rows), self.expected, source
        )
        figures = {WEIGHT: 1, **(mean_metrics(rows) if rows else {})}
        trained, measured = split_statistics(to_record(mean), self.statistics)
        content = RecordDict({"arrays": trained, "metrics": MetricRecord(figures)})
        reply = Message(content, 1, MessageType.TRAIN)
        arrays, metrics = self.strategy.aggregate_train(server_round, [reply])
        return (None if arrays is None else ArrayRecord({**arrays, **measured})), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's own."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The strategy's own."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The strategy's own."""
        self.strategy.summary()

    def _drawn(self, server_round: int, attempt: int, client: int) -> bool:
        """By a hash, not from a stream: which nodes are connected changes nobody else's coin."""
        return self.rate >= 1 or derive_seed(self.key, server_round, attempt, client) / _WHOLE < self.rate
