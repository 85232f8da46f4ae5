"""Numbers for pictures and tables."""

import numpy as np
import pytest

from fedloom_server.report import history
from fedloom_server.store.rows import ClientRound, Round


def test_quantiles_are_over_the_clients_that_measured_in_each_round():
    rounds = [Round(0, None, None), Round(1, None, None), Round(2, None, None)]
    parts = [ClientRound(1, i, "evaluate", "ok", metric=float(i)) for i in range(101)]
    parts += [
        ClientRound(1, 200, "evaluate", "failed", metric=None),
        ClientRound(2, 0, "evaluate", "ok", metric=float("nan")),
    ]
    quantiles = history.client_quantiles(rounds, parts)
    np.testing.assert_allclose(quantiles[:, 1], [5, 25, 50, 75, 95])
    assert np.isnan(quantiles[:, [0, 2]]).all()


def test_columns_have_nan_for_what_was_not_measured():
    rounds = [Round(0, 1.0, None), Round(1, None, 0.5), Round(2, float("inf"), 0.75)]
    np.testing.assert_array_equal(history.column(rounds, "loss"), [1, np.nan, np.nan])
    assert history.last_finite(history.column(rounds, "loss")) == 1
    assert history.last_finite(np.array([np.nan])) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.0000"),
        (0.97251, "0.9725"),
        (0.0012345, "0.001234"),
        (12.3456, "12.3456"),
        (-0.5, "-0.5000"),
    ],
)
def test_figures_keep_four_digits(value, text):
    assert history.figure(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (8.24, "8.2 s"),
        (99.99, "1 min 40 s"),
        (185, "3 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations_read_well(seconds, text):
    assert history.duration(seconds) == text


@pytest.mark.parametrize(("largest", "unit"), [(0, "bytes"), (2e3, "kB"), (2e6, "MB"), (2e9, "GB")])
def test_bytes_get_a_fitting_unit(largest, unit):
    assert history.byte_unit(largest)[0] == unit
