"""Stopping a run that no longer gets better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fedloom_edge.errors import InputError, unknown
from fedloom_server.store.rows import Round

_COLUMNS = {"loss": "federated_loss", "accuracy": "federated_metric", "mae": "federated_metric"}


@dataclass(frozen=True)
class EarlyStop:
    """Stop after `patience` rounds without a better figure on the clients' validation parts.

    The held-out test set takes no part: choosing a round by it would flatter the result.

    Attributes:
        metric: loss, accuracy or mae.
        patience: rounds, at least 1.
    """

    metric: str
    patience: int

    @classmethod
    def parse(cls, text: str, standard_metric: str) -> Self:
        """Read `METRIC:ROUNDS`, for example `loss:5`.

        Raises:
            InputError: the metric is not the task's or the rounds are no whole number from 1.
        """
        metric, _, patience = text.partition(":")
        if metric not in ("loss", standard_metric):
            raise unknown("metric of --early-stop", metric, ["loss", standard_metric])
        if not (patience.isdecimal() and int(patience) >= 1):
            raise InputError(
                f"--early-stop {text}: write METRIC:ROUNDS with ROUNDS from 1, for example loss:5"
            )
        return cls(metric, int(patience))

    def reached(self, rounds: Sequence[Round]) -> str:
        """Why to stop after these rounds; empty to go on."""
        sign = -1 if self.metric == "accuracy" else 1
        column = _COLUMNS[self.metric]
        values = [(sign * value, r.number) for r in rounds if (value := getattr(r, column)) is not None]
        if not values:
            return ""
        best, best_round = min(values)
        if rounds[-1].number - best_round < self.patience:
            return ""
        return f"{self.metric} was best in round {best_round} ({sign * best:.4g}), {self.patience} rounds ago"
