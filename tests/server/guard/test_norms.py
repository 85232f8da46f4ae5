"""Outliers by norm: what stands out among clients, and never what most of them do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_edge.errors import InputError
from fedloom_server.guard.norms import NO_LIMIT, GuardSettings, RoundNorms, bucket, limit

SETTINGS = GuardSettings()
NORMS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30)


def outliers(norms, past=(), settings=SETTINGS):
    given_ = dict(enumerate(norms))
    highest = limit(settings, given_, past)
    return [client for client, norm in given_.items() if bucket(norm) > highest]


def test_ten_times_the_others_is_an_outlier():
    assert outliers([1.0, 1.1, 0.9, 1.2, 10.0]) == [4]
    assert outliers([1.0, 1.1, 10.0]) == [2]


def test_honest_differences_are_none():
    assert outliers([0.5, 0.8, 1.0, 1.4, 2.0, 3.0]) == []


def test_norms_that_rise_or_fall_from_round_to_round_are_none():
    past = [RoundNorms(5.0, 0.1)] * 5
    assert outliers([300.0, 310.0, 320.0, 290.0, 305.0], past) == []
    assert outliers([1.0, 1.1, 0.9, 1.0, 10.0], past) == [4]


def test_clients_that_differ_much_in_past_rounds_may_differ_now():
    assert outliers([1.0, 1.1, 0.9, 1.2, 10.0], [RoundNorms(0.0, 2.0)] * 5) == []


def test_few_clients_are_judged_beside_past_rounds():
    assert outliers([0.01, 0.011, 1.0], [RoundNorms(0.0, 0.1)] * 5) == []
    assert outliers([0.01, 0.011, 1.0]) == [2]


def test_one_or_two_updates_cannot_be_outliers():
    assert limit(SETTINGS, {0: 1e9, 1: 1e-9}, []) == NO_LIMIT


@given(NORMS, st.lists(st.tuples(st.floats(-20, 20), st.floats(0, 5)), max_size=6))
def test_half_of_the_updates_are_never_outliers(norms, past):
    assert 2 * len(outliers(norms, [RoundNorms(*entry) for entry in past])) < len(norms)


@given(NORMS, st.randoms())
def test_the_limit_does_not_depend_on_the_order(norms, random):
    shuffled = list(enumerate(norms))
    random.shuffle(shuffled)
    assert limit(SETTINGS, dict(shuffled), []) == limit(SETTINGS, dict(enumerate(norms)), [])


@given(st.floats(1e-8, 1e30))
def test_a_bucket_is_a_half_octave(norm):
    assert 2 ** ((bucket(norm) - 1) / 2) * (1 - 1e-9) <= norm <= 2 ** (bucket(norm) / 2) * (1 + 1e-9)


def test_statistics_by_hand():
    found = RoundNorms.of([1.0, 2.0, 4.0, 8.0, 1024.0])
    assert found.centre == 2.0
    assert found.spread == pytest.approx(1.4826)  # deviations 2, 1, 0, 1, 8 of the logarithms
    assert np.isfinite(RoundNorms.of([0.0]).centre)


@pytest.mark.parametrize(
    "wrong", [{"norms": "trim"}, {"sigmas": 0}, {"room": -1}, {"quorum": 2}, {"attempts": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        GuardSettings(**wrong)
