"""Geometric median, centred clipping and FLAME, against values found by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_edge.errors import InputError
from fedloom_server.strategies.registry import make_strategy
from fedloom_server.strategies.robust import centred_clipping, flame, geometric_median


def points(*rows):
    return [np.array(row, np.float64) for row in rows]


def test_the_geometric_median_on_a_line_is_the_median():
    found = geometric_median(points([0.0], [1.0], [100.0]), [1, 1, 1], 200, 1e-9)
    assert found[0] == pytest.approx(1.0, abs=1e-3)


def test_the_geometric_median_of_a_square_is_its_centre():
    found = geometric_median(points([0, 0], [0, 2], [2, 0], [2, 2]), [1, 1, 1, 1], 50, 1e-9)
    assert found == pytest.approx([1, 1])


def test_weights_count_like_repetitions():
    rows = points([0.0, 1.0], [3.0, 0.0], [1.0, 5.0])
    weighted = geometric_median(rows, [2, 1, 1], 30, 1e-9)
    repeated = geometric_median([rows[0], *rows], [1, 1, 1, 1], 30, 1e-9)
    assert weighted == pytest.approx(repeated)


def test_a_minority_of_any_size_moves_the_geometric_median_little():
    honest = [np.random.default_rng(i).normal(size=10) for i in range(7)]
    far = [np.full(10, 1e9)] * 3
    found = geometric_median(honest + far, [1] * 10, 100, 1e-6)
    assert np.linalg.norm(found - np.mean(honest, axis=0)) < 3


def test_centred_clipping_by_hand():
    # From 0 with radius 1: (1 + 1 - 1) / 3 = 1/3.
    found = centred_clipping(points([4.0], [2.0], [-8.0]), np.zeros(1), 1.0, 1)
    assert found == pytest.approx([1 / 3])
    # Inside the radius it is the mean.
    assert centred_clipping(points([1.0], [2.0]), np.zeros(1), 10.0, 1) == pytest.approx([1.5])
    # Radius 0 is the median distance, 4: (4 + 2 - 4) / 3.
    assert centred_clipping(points([4.0], [2.0], [-8.0]), np.zeros(1), 0.0, 1) == pytest.approx([2 / 3])


def test_points_that_agree_with_the_centre_are_no_division_by_zero():
    assert centred_clipping(points([1.0], [1.0]), np.ones(1), 0.0, 3).tolist() == [1.0]


def directions(*angles, lengths=1.0):
    radians = np.radians(angles)
    return list(np.stack([np.cos(radians), np.sin(radians)], axis=1) * np.broadcast_to(lengths, (1,)))


def test_flame_leaves_out_those_that_point_elsewhere():
    honest, attackers = directions(0, 5, 10, 15), directions(180, 185, 190)
    assert flame([*honest, *attackers]) == pytest.approx(np.mean(honest, axis=0))


@given(st.floats(1e3, 1e12), st.integers(0, 4))
def test_flame_takes_no_more_from_a_long_update_than_from_the_median_one(factor, which):
    same_way = directions(0, 1, 3, 6, 10)
    longer = [factor * p if i == which else p for i, p in enumerate(same_way)]
    assert flame(longer) == pytest.approx(flame(same_way))


def test_flame_of_updates_that_agree_on_nothing_is_their_mean():
    rows = list(np.eye(8))
    assert flame(rows) == pytest.approx(np.mean(rows, axis=0))


def test_flame_bears_one_update_two_and_updates_of_zero():
    assert flame(points([1.0, 2.0])).tolist() == [1, 2]
    assert flame(points([1.0, 0.0], [-1.0, 0.0])).tolist() == [0, 0]
    assert flame(points([0.0], [0.0], [0.0])).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "options"), [("rfa", {"iterations": "0"}), ("centredclipping", {"radius": "-1"})]
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(InputError, match=name):
        make_strategy(name, options, clients=5, lr=0.1)
