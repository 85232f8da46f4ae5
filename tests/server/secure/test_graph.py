"""Who shares masks with whom."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_server.secure.graph import connected, degree, neighbours, threshold


@given(count=st.integers(3, 300), dropouts=st.sampled_from([0.0, 0.1, 0.3, 0.45]), seed=st.integers(0, 99))
def test_every_client_has_as_many_neighbours_and_they_have_it(count, dropouts, seed):
    near = degree(count, dropouts)
    graph = neighbours(range(10, 10 + count), near, seed)
    assert set(graph) == set(range(10, 10 + count))
    for client, others in graph.items():
        assert len(others) == len(set(others)) == near
        assert client not in others
        assert all(client in graph[other] for other in others)
    assert connected(graph, graph)


@pytest.mark.parametrize("count", [3, 10, 21])
def test_few_clients_all_share_with_all(count):
    assert degree(count, 0.3) == count - 1


def test_neighbours_hardly_grow_with_the_clients():
    assert degree(100, 0.3) < 60
    assert degree(1000, 0.3) < 150
    assert degree(1000, 0.1) <= 20


@pytest.mark.parametrize("holders", range(3, 40))
def test_more_than_half_of_the_holders_are_needed(holders):
    assert holders < 2 * threshold(holders - 1) <= 2 * holders


def test_a_round_that_loses_what_it_may_lose_is_hardly_ever_repeated():
    rng = np.random.default_rng(0)
    failed = 0
    for seed in range(300):
        graph = neighbours(range(100), degree(100, 0.3), seed)
        left = set(rng.permutation(100)[30:].tolist())
        need = threshold(degree(100, 0.3))
        held = (sum(o in left for o in others) + (client in left) for client, others in graph.items())
        failed += min(held) < need
    assert failed <= 6


def test_parts_that_share_no_masks_are_found():
    graph = {0: [1, 3], 1: [0, 2], 2: [1, 3], 3: [2, 0]}
    assert connected(graph, [0, 1, 2])
    assert not connected(graph, [0, 2])
