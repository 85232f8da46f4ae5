"""How a figure is spread over clients: the mean and the worst of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedloom_server.store.rows import ClientRound

WORST_SHARE = 0.05


@dataclass(frozen=True)
class Spread:
    """Figures of one round over the clients that measured something.

    Attributes:
        loss: mean weighted by examples, or None if nobody measured.
        metric: likewise, the task's standard metric.
        worst: mean metric of the worst 5 % of clients (at least one), every client counting once.
    """

    loss: float | None = None
    metric: float | None = None
    worst: float | None = None


def spread(rows: Sequence[ClientRound], *, higher_is_better: bool) -> Spread:
    """The spread over evaluation rows; clients that failed or have no validation part are left out."""
    measured = [
        (row.examples, row.loss, row.metric)
        for row in rows
        if row.status == "ok" and row.examples and row.loss is not None and row.metric is not None
    ]
    if not measured:
        return Spread()
    total = sum(examples for examples, _, _ in measured)
    worst = sorted((metric for _, _, metric in measured), reverse=not higher_is_better)
    worst = worst[: math.ceil(WORST_SHARE * len(worst))]
    return Spread(
        loss=sum(examples * loss for examples, loss, _ in measured) / total,
        metric=sum(examples * metric for examples, _, metric in measured) / total,
        worst=sum(worst) / len(worst),
    )
