"""Shards: train and validation parts that never share a sample, a block or the future."""

import pickle

import numpy as np
import pytest

from fedloom_client import ArraySamples
from fedloom_client.samples import View
from fedloom_client.shards import ShardRecipe
from fedloom_edge.errors import InputError

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
