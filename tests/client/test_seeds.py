"""Generators that are made together are those that are made one by one."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from fedloom_client.seeds import streams


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8))
def test_streams_are_numpys_own_generators(seeds):
    draws = [(rng.permutation(9).tolist(), rng.random(), rng.integers(7)) for rng in streams(seeds)]
    alone = map(np.random.default_rng, seeds)
    assert draws == [(rng.permutation(9).tolist(), rng.random(), rng.integers(7)) for rng in alone]
