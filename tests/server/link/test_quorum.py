"""When the coordinator stops waiting."""

import pytest

from fedloom_server.link.quorum import Quorum

RULE = Quorum(share=0.8, grace=60, patience=3, deadline=1000)


def over(answered, lost=0, elapsed=10.0, quorum_after=None):
    return RULE.over(asked=10, answered=answered, lost=lost, elapsed=elapsed, quorum_after=quorum_after)


@pytest.mark.parametrize(("asked", "needed"), [(1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (100, 80)])
def test_a_quorum_is_at_least_the_share(asked, needed):
    assert RULE.needed(asked) == needed


def test_everybody_has_answered():
    assert over(10)


def test_without_a_quorum_the_lost_are_waited_for():
    assert not over(7, lost=3, elapsed=900)


def test_with_a_quorum_the_lost_are_not_waited_for():
    assert over(8, lost=2, quorum_after=9)


def test_a_slow_device_has_as_long_again_three_times():
    assert not over(8, elapsed=299, quorum_after=100)
    assert over(8, elapsed=300, quorum_after=100)


def test_a_slow_device_has_a_minute_at_least():
    assert not over(8, elapsed=59, quorum_after=1)
    assert over(8, elapsed=60, quorum_after=1)


def test_the_deadline_ends_a_phase_in_any_case():
    assert over(1, elapsed=1000)


@pytest.mark.parametrize(("grace", "seconds"), [(60, 5), (20, 5), (2, 0.5)])
def test_several_heartbeats_fit_into_the_grace(grace, seconds):
    assert Quorum(grace=grace).heartbeat == seconds
