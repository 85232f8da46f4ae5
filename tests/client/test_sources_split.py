"""A held-out test set is the latest of ordered samples, and never part of a block."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from fedloom_client import ArraySamples, sources


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    test=st.floats(0.05, 0.5),
    ordered=st.booleans(),
    seed=st.integers(0, 20),
)
def test_every_sample_is_in_one_part_and_no_block_is_cut(sizes, test, ordered, seed):
    blocks = np.repeat(np.arange(len(sizes))[::-1], sizes)  # numbered against time
    samples = ArraySamples(np.arange(len(blocks)), np.zeros(len(blocks), int), blocks=blocks)
    data = sources.split(samples, test, seed=seed, ordered=ordered)
    train, held_out = (part.take(np.arange(len(part)))[0].tolist() for part in (data.train, data.test))
    assert sorted(train + held_out) == list(range(len(blocks)))
    assert train and held_out
    assert not set(data.train.blocks) & set(data.test.blocks)
    if ordered:
        assert max(train) < min(held_out)
