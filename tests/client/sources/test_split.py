"""A held-out test set is the latest of ordered samples, and never part of a block."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from sklearn.model_selection import train_test_split

from fedloom_client import ArraySamples, sources
from fedloom_client.sources.splitting import stratified


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


@given(counts=st.lists(st.integers(6, 30), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_stratified_split_is_that_of_scikit_learn(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    theirs = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    for ours, expected in zip(stratified(labels), theirs, strict=True):
        assert ours.tolist() == expected.tolist()
