"""Partitions: every sample in exactly one shard, no shard empty, the same for the same seed."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

from fedloom_client import ArraySamples
from fedloom_client.data.partition import Partition
from fedloom_edge.errors import InputError


def samples_of(labels, groups=None):
    labels = np.asarray(labels)
    return ArraySamples(np.zeros((len(labels), 1)), labels, groups=groups)


specs = st.one_of(
    st.just("iid"),
    st.floats(0.01, 100).map(lambda alpha: f"dirichlet:{alpha}"),
    st.floats(0.01, 100).map(lambda alpha: f"quantity:{alpha}"),
    st.integers(1, 12).map(lambda k: f"pathological:{k}"),
)


@given(
    spec=specs,
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=200),
    clients=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_every_sample_lands_in_exactly_one_shard_and_no_shard_is_empty(spec, labels, clients, seed):
    assume(clients <= len(labels))
    kind, _, k = spec.partition(":")
    assume(kind != "pathological" or clients * min(int(k), len(set(labels))) >= len(set(labels)))
    cut = Partition.parse(spec).cut(samples_of(labels), clients, seed)
    assert len(cut) == clients
    assert all(len(shard) for shard in cut)
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(labels)))
    assert all((np.diff(shard) > 0).all() for shard in cut)
    again = Partition.parse(spec).cut(samples_of(labels), clients, seed)
    assert all(np.array_equal(one, two) for one, two in zip(cut, again, strict=True))


def test_another_seed_cuts_otherwise():
    labels = np.arange(100) % 5
    cuts = [Partition.parse("iid").cut(samples_of(labels), 4, seed) for seed in (1, 2)]
    assert not np.array_equal(cuts[0][0], cuts[1][0])


def test_iid_shards_have_equal_sizes():
    assert {len(shard) for shard in Partition.parse("iid").cut(samples_of(np.zeros(103, int)), 10, 0)} == {
        10,
        11,
    }


def test_a_small_alpha_skews_labels_and_a_large_one_does_not():
    labels = np.repeat(np.arange(10), 500)

    def largest_share(alpha):
        cut = Partition.parse(f"dirichlet:{alpha}").cut(samples_of(labels), 10, 0)
        return np.mean([np.bincount(labels[shard]).max() / len(shard) for shard in cut])

    assert largest_share(0.05) > 0.5
    assert largest_share(1000) < 0.13


def test_quantity_skew_changes_sizes_but_not_labels():
    labels = np.arange(10_000) % 10
    cut = Partition.parse("quantity:0.5").cut(samples_of(labels), 10, 0)
    sizes = [len(shard) for shard in cut]
    assert max(sizes) > 3 * min(sizes)
    big = cut[int(np.argmax(sizes))]
    assert np.bincount(labels[big]).max() / len(big) < 0.13


@pytest.mark.parametrize(("clients", "classes"), [(10, 2), (7, 3), (20, 1), (5, 2), (100, 2)])
def test_a_pathological_client_has_at_most_k_classes(clients, classes):
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    cut = Partition.parse(f"pathological:{classes}").cut(samples_of(labels), clients, 1)
    assert all(len(np.unique(labels[shard])) <= classes for shard in cut)


def test_natural_gives_each_group_to_one_client_and_balances_sizes():
    groups = np.repeat([3, 8, 9, 40], [50, 30, 15, 5])
    samples = samples_of(np.zeros(100, int), groups)
    four = Partition.parse("natural").cut(samples, 4, 0)
    assert [set(groups[shard]) for shard in four] == [{3}, {8}, {9}, {40}]
    two = Partition.parse("natural").cut(samples, 2, 0)
    assert sorted(len(shard) for shard in two) == [50, 50]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dirichlt:1", "did you mean 'dirichlet'"),
        ("dirichlet", "dirichlet:0.3"),
        ("dirichlet:0", "out of range"),
        ("dirichlet:-1", "out of range"),
        ("dirichlet:nan", "out of range"),
        ("dirichlet:inf", "out of range"),
        ("dirichlet:1e308", "out of range"),  # numpy's draws overflow: one client would get all
        ("pathological:1.5", "out of range"),
        ("pathological:0", "out of range"),
        ("iid:3", "takes no parameter"),
    ],
)
def test_a_wrong_specification_is_refused_with_the_mend(spec, message):
    with pytest.raises(InputError, match=message):
        Partition.parse(spec)


@pytest.mark.parametrize(
    ("spec", "clients", "message"),
    [
        ("iid", 11, "only 10 samples"),
        ("iid", 0, "at least 1"),
        ("natural", 3, "2 natural groups"),
        ("pathological:1", 3, "covers 3 of 5 classes"),
    ],
)
def test_what_the_samples_cannot_give_is_refused(spec, clients, message):
    samples = samples_of(np.arange(10) % 5, np.arange(10) % 2)
    with pytest.raises(InputError, match=message):
        Partition.parse(spec).cut(samples, clients, 0)


@pytest.mark.parametrize("spec", ["dirichlet:1", "pathological:2", "natural"])
def test_missing_labels_or_groups_are_said(spec):
    regression = ArraySamples(np.zeros((10, 1)), np.zeros(10, np.float32))
    with pytest.raises(InputError, match=r"labels|groups"):
        Partition.parse(spec).cut(regression, 2, 0)


def test_pathological_clients_meet_in_many_combinations_of_classes():
    labels = np.arange(5000) % 10
    cut = Partition.parse("pathological:2").cut(samples_of(labels), 100, 0)
    assert len({tuple(np.unique(labels[shard])) for shard in cut}) > 20  # of 45; a fixed deck gives 5
    holders = np.bincount(np.concatenate([np.unique(labels[shard]) for shard in cut]))
    assert holders.tolist() == [20] * 10
