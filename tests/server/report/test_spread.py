"""The spread over clients: example-weighted means, and the mean of the worst 5 %."""

import pytest

from fedloom_server.report.spread import spread
from fedloom_server.store.rows import ClientRound


def row(client, metric, examples=1, status="ok", loss=1.0):
    return ClientRound(1, client, "evaluate", status, examples=examples, loss=loss, metric=metric)


def test_means_are_weighted_by_examples():
    result = spread([row(0, 1.0, 3, loss=2.0), row(1, 0.0, 1, loss=4.0)], higher_is_better=True)
    assert (result.metric, result.loss) == (0.75, 2.5)


def test_worst_is_the_lowest_5_percent_and_at_least_one_client():
    rows = [row(i, i / 40) for i in range(40)]
    assert spread(rows, higher_is_better=True).worst == pytest.approx((0 / 40 + 1 / 40) / 2)
    assert spread(rows[:3], higher_is_better=True).worst == 0
    assert spread(rows, higher_is_better=False).worst == pytest.approx((39 / 40 + 38 / 40) / 2)


def test_clients_that_failed_or_measured_nothing_are_left_out():
    rows = [row(0, 0.5), row(1, 0.0, examples=0), row(2, 0.0, status="failed")]
    assert spread(rows, higher_is_better=True).worst == 0.5
    assert spread(rows[1:], higher_is_better=True).metric is None
