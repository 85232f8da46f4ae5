"""Repeat offenders are left out for a while, with back-off, and are forgiven."""

from fedloom_server.guard.reputation import Reputation


def test_the_first_offence_costs_nothing_and_the_next_ones_double():
    reputation = Reputation()
    assert [reputation.refused(3, number) for number in (1, 2, 5, 10)] == [0, 2, 4, 8]
    assert [number for number in range(11, 25) if 3 in reputation.benched(number)] == list(range(11, 19))


def test_the_bench_is_never_longer_than_64_rounds():
    reputation = Reputation()
    assert max(reputation.refused(1, number) for number in range(20)) == 64


def test_good_updates_take_strikes_away():
    reputation = Reputation()
    reputation.refused(1, 1)
    for _ in range(4):
        reputation.accepted(1)
    assert reputation.state() == {}
    assert reputation.refused(1, 9) == 0


def test_the_most_trusted_come_first():
    reputation = Reputation()
    reputation.refused(0, 1)
    reputation.refused(2, 1)
    reputation.refused(2, 2)
    assert reputation.trusted_first([2, 1, 0]) == [1, 0, 2]


def test_it_comes_back_from_its_state():
    reputation, other = Reputation(), Reputation()
    reputation.refused(7, 4)
    reputation.refused(7, 5)
    other.restore(reputation.state())
    assert other.benched(6) == reputation.benched(6) == {7}
    assert other.refused(7, 9) == 4
