"""Shards: train and validation parts that never share a sample, a block or the future."""

import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fedloom_client import ArraySamples, Data
from fedloom_client.data.samples import View
from fedloom_client.data.shards import ShardRecipe, Shards
from fedloom_edge.errors import DataError, InputError

TASK = """
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Data, Task

def samples(n):
    blocks = np.arange(n) // 5 if {blocks} else None
    x = np.arange(n, dtype=np.float32).reshape(n, 1)
    return ArraySamples(x, np.arange(n) % 3, groups=np.arange(n) % 4, blocks=blocks)

def data(folder):
    return Data(train=samples(100), test=samples(10), ordered={ordered})

task = Task(name="t", model=lambda: nn.Linear(1, 3), data=data)
"""


@pytest.fixture
def open_shards(tmp_path):
    def run(partition="iid", clients=4, validation=0.2, seed=0, **form):
        path = tmp_path / f"task_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(TASK.format(**{"blocks": False, "ordered": False} | form))
        return ShardRecipe(str(path), None, partition, clients, seed, validation).open()

    return run


def rows(samples):
    return samples.take(np.arange(len(samples)))[0].ravel().astype(int).tolist()


@pytest.mark.parametrize("form", [{}, {"blocks": True}, {"ordered": True}])
def test_every_sample_is_in_one_part_of_one_shard(open_shards, form):
    shards = open_shards(**form)
    parts = [
        rows(part) for shard in map(shards.__getitem__, range(4)) for part in (shard.train, shard.validation)
    ]
    assert sorted(row for part in parts for row in part) == list(range(100))
    assert all(parts)


def test_the_validation_part_has_its_share(open_shards):
    shard = open_shards()[0]
    assert (len(shard.train), len(shard.validation)) == (20, 5)


def test_a_block_is_never_cut(open_shards):
    shards = open_shards(blocks=True)
    for shard in map(shards.__getitem__, range(4)):
        assert not set(shard.train.blocks) & set(shard.validation.blocks)


def test_in_time_order_the_validation_part_is_the_latest(open_shards):
    shard = open_shards(ordered=True)[1]
    assert max(rows(shard.train)) < min(rows(shard.validation))


def test_a_shard_of_one_sample_trains_on_it(open_shards):
    shard = open_shards(clients=100, validation=0.5)[7]
    assert (len(shard.train), len(shard.validation)) == (1, 0)


def test_the_same_recipe_gives_the_same_shards_in_any_process(open_shards):
    shards = open_shards()
    recipe = pickle.loads(pickle.dumps(shards.recipe))  # noqa: S301  (our own bytes)
    assert recipe.open() is shards
    assert rows(open_shards(seed=1)[0].train) != rows(shards[0].train)


def test_no_number_of_clients_means_one_for_each_natural_group(open_shards):
    shards = open_shards(partition="natural", clients=0)
    assert len(shards) == 4
    assert {int(group) for group in shards[2].train.groups} == {2}


def test_label_counts_cover_every_sample(open_shards):
    counts = open_shards().label_counts()
    assert (counts.shape, counts.sum()) == ((4, 3), 100)


def test_views_copy_nothing_until_they_are_read():
    base = ArraySamples(np.arange(6.0), np.arange(6))
    view = View(View(base, np.array([5, 3, 1])), np.array([2, 0]))
    assert view.take(np.array([1, 0]))[0].tolist() == [5, 1]
    assert view.labels.tolist() == [1, 5]


def test_no_natural_groups_and_no_number_of_clients_is_refused(tmp_path):
    path = tmp_path / "t.py"
    path.write_text(TASK.format(blocks=False, ordered=False).replace("groups=np.arange(n) % 4, ", ""))
    with pytest.raises(InputError, match="one per natural group"):
        ShardRecipe(str(path), None, "iid", 0, 0).open()


def cut_in_blocks(monkeypatch, sizes, *, seed=0, validation=0.1, ordered=False):
    """One client's shard of samples whose blocks have these sizes."""
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    samples = ArraySamples(np.arange(len(blocks))[:, np.newaxis], np.zeros(len(blocks), int), blocks=blocks)
    monkeypatch.setattr("fedloom_client.data.shards.load_task", lambda reference: None)
    monkeypatch.setattr(
        "fedloom_client.data.shards.load_data", lambda task, folder: Data(samples, samples, ordered=ordered)
    )
    return Shards(ShardRecipe("any", None, "iid", 1, seed, validation))[0]


def test_no_validation_asked_for_holds_out_no_block(monkeypatch):
    shard = cut_in_blocks(monkeypatch, [10] * 10, validation=0.0)
    assert (len(shard.train), len(shard.validation)) == (100, 0)


@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=8), seed=st.integers(0, 50))
def test_a_block_that_is_most_of_a_shard_is_trained_on(sizes, seed):
    with pytest.MonkeyPatch.context() as patch:
        shard = cut_in_blocks(patch, sizes, seed=seed)
    assert len(shard.train) >= len(shard.validation)
    assert len(shard.train) + len(shard.validation) == sum(sizes)
    assert not set(shard.train.blocks) & set(shard.validation.blocks)


def test_in_time_order_too_a_block_is_never_cut(monkeypatch):
    shard = cut_in_blocks(monkeypatch, [19] * 5, ordered=True)
    assert set(shard.validation.blocks) == {4}
    assert set(shard.train.blocks) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("label", "loss", "counted"), [("i % 3", "cross_entropy", True), ("i * 10**11", "mse", False)]
)
def test_whole_numbers_to_regress_are_not_counted_as_labels(tmp_path, label, loss, counted):
    shards = labelled(tmp_path, label, loss)
    assert (shards.label_counts() is not None) == counted


@pytest.mark.parametrize("label", ["i - 1", "i * 10**11"])
def test_labels_that_number_no_class_are_refused(tmp_path, label):
    with pytest.raises(DataError, match="number the classes from 0"):
        labelled(tmp_path, label, "cross_entropy").label_counts()


def labelled(tmp_path, label, loss):
    path = tmp_path / "t.py"
    text = TASK.format(blocks=False, ordered=False).replace(
        "np.arange(n) % 3", f"np.array([{label} for i in range(n)])"
    )
    path.write_text(text.replace('name="t"', f'name="t", loss="{loss}"'))
    return ShardRecipe(str(path), None, "iid", 2, 0).open()
