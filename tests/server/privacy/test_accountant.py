"""Epsilon is what another library and a closed form say it is, and never less than what was lost."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from fedloom_server.privacy.accountant import epsilon, largest, renyi_bound

DELTA = 1e-5
NOISE = st.floats(0.6, 8)
RATE = st.floats(0.005, 1)
STEPS = st.integers(1, 300)


def close(first, second):
    return math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-3)


@pytest.mark.parametrize(
    "parts", [((1.0, 0.1, 200),), ((1.1, 0.02, 2000),), ((4.0, 0.5, 30),), ((0.7, 0.25, 20),)]
)
def test_epsilon_is_that_of_opacus(parts):
    other = PRVAccountant()
    other.history = list(parts)
    bound = 1e-4  # of Opacus' own error
    assert close(epsilon(parts, DELTA), other.get_epsilon(DELTA, eps_error=bound, delta_error=DELTA / 1000))


def test_epsilon_of_different_mechanisms_together_is_that_of_opacus():
    parts = ((1.5, 0.1, 50), (2.0, 0.3, 20))
    other = PRVAccountant()
    other.history = list(parts)
    assert close(epsilon(parts, DELTA), other.get_epsilon(DELTA, eps_error=1e-4, delta_error=DELTA / 1000))


def analytic(noise, delta):
    """Balle and Wang (2018, "Improving the Gaussian mechanism for differential privacy", theorem 8)."""

    def excess(eps):
        left, right = 1 / (2 * noise) - eps * noise, -1 / (2 * noise) - eps * noise
        return norm.cdf(left) - math.exp(eps) * norm.cdf(right) - delta

    return brentq(excess, 0, 500) if excess(0) > 0 else 0.0


@settings(max_examples=25, deadline=None)
@given(NOISE, st.integers(1, 40), st.sampled_from([1e-3, 1e-5, 1e-7]))
def test_without_sampling_it_is_the_closed_form(noise, steps, delta):
    """So many Gaussian mechanisms are one with less noise."""
    expected = analytic(noise / math.sqrt(steps), delta)
    if expected < 90:
        assert close(epsilon(((noise, 1.0, steps),), delta), expected)


@settings(max_examples=25, deadline=None)
@given(NOISE, RATE, STEPS)
def test_the_bound_is_one_and_more_steps_cost_more(noise, rate, steps):
    parts = ((noise, rate, steps),)
    found = epsilon(parts, DELTA)
    assert 0 <= found <= renyi_bound(parts, DELTA) + 1e-3
    assert found <= epsilon(((noise, rate, steps + 1),), DELTA) + 1e-9


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(NOISE, RATE, STEPS), min_size=1, max_size=5))
def test_the_largest_is_found_without_computing_all(parts):
    compositions = [(part,) for part in parts]
    assert largest(compositions, DELTA) == max(epsilon(part, DELTA) for part in compositions)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon((), DELTA) == 0
    assert largest([], DELTA) == 0
    assert epsilon(((0.0, 1.0, 1),), DELTA) == math.inf
    assert epsilon(((0.01, 0.3, 1000),), DELTA) > 100
