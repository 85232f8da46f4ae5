"""Preprocessing fitted over clients equals preprocessing fitted on pooled data, and no sample moves."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fedloom_client import ArraySamples, Standardize, Vocabulary
from fedloom_client.data.preprocess import prepare, words
from fedloom_client.data.samples import View
from fedloom_edge.errors import DataError


def shards_of(x, cuts):
    samples = ArraySamples(x, np.zeros(len(x), np.int64))
    return [View(samples, part) for part in np.split(np.arange(len(x)), sorted(cuts)) if len(part)]


@given(
    cuts=st.lists(st.integers(1, 49), max_size=5, unique=True),
    axis=st.sampled_from([None, -1, 1]),
    shift=st.sampled_from([0.0, 100.0]),
)
def test_standardising_over_shards_equals_standardising_pooled_data(cuts, axis, shift):
    x = np.random.default_rng(0).normal(shift, 3, (50, 4, 5))
    scaler = Standardize(axis)
    constants = scaler.merge(scaler.summarise(shard) for shard in shards_of(x, cuts))
    others = tuple(i for i in range(3) if axis is None or i != axis % 3)
    expected = (x - x.mean(others, keepdims=True)) / x.std(others, keepdims=True)
    np.testing.assert_allclose(scaler.apply(x, constants), expected, atol=1e-5)


def test_a_summary_holds_moments_only():
    summary = Standardize().summarise(shards_of(np.random.default_rng(0).normal(size=(50, 3)), [])[0])
    assert {name: array.shape for name, array in summary.items()} == {
        "count": (),
        "sum": (3,),
        "squares": (3,),
    }


def test_a_constant_feature_becomes_zero_and_not_nan():
    x = np.full((10, 2), 7.3)
    scaler = Standardize()
    constants = scaler.merge([scaler.summarise(shards_of(x, [])[0])])
    assert np.abs(scaler.apply(x, constants)).max() < 1e-5


def test_words_are_lower_case_words_runs_of_marks_and_emoticons():
    assert words("Don't STOP!!! it's über-good :-)") == [
        "don't",
        "stop",
        "!!!",
        "it's",
        "über",
        "good",
        ":-)",
    ]


def test_the_vocabulary_is_the_most_frequent_words_of_all_clients():
    texts = np.array(["good good film film", "bad bad film film", "bad bad rare"])
    vocabulary = Vocabulary(size=4, length=3)
    summaries = [vocabulary.summarise(shard) for shard in shards_of(texts, [1, 2])]
    constants = vocabulary.merge(summaries)
    tokens = vocabulary.apply(np.array(["film bad good", "bad", ""]), constants)
    assert tokens.tolist() == [[3, 2, 1], [2, 0, 0], [0, 0, 0]]  # bad and film tie at 4: alphabetical


def test_a_word_that_a_client_has_once_stays_with_the_client():
    summary = Vocabulary(size=9, length=3).summarise(shards_of(np.array(["the the Kowalski"]), [])[0])
    assert bytes(summary["words"]) == b"the"


def test_no_frequent_word_at_all_is_said():
    vocabulary = Vocabulary(size=9, length=3)
    with pytest.raises(DataError, match="are the inputs texts"):
        vocabulary.merge([vocabulary.summarise(shards_of(np.array(["one two"]), [])[0])])


def test_prepared_samples_keep_targets_groups_and_blocks():
    x = np.arange(6.0).reshape(3, 2)
    samples = ArraySamples(x, np.array([2, 1, 0]), np.array([5, 5, 6]), np.array([0, 1, 1]))
    scaler = Standardize()
    ready = prepare(samples, scaler, scaler.merge([scaler.summarise(samples)]))
    assert ready.take(np.array([2, 0]))[1].tolist() == [0, 2]
    assert (ready.groups.tolist(), ready.blocks.tolist()) == ([5, 5, 6], [0, 1, 1])
    assert ready.take(np.arange(3))[0].dtype == np.float32
