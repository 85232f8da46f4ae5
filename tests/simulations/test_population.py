"""Populations far larger than a cohort: nothing is made for a client that nobody asks."""

import numpy as np
import pytest

from fedloom_client.data.partition import Partition
from fedloom_client.data.samples import ArraySamples
from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_edge.errors import InputError
from fedloom_server.rounds.roster import OrderedGrid, meet
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.engine.cohort_grid import CohortGrid
from fedloom_simulations.engine.inline import InlineGrid

SAMPLES = ArraySamples(np.arange(500.0), np.arange(500) % 3)


def test_virtual_clients_draw_their_samples_each_by_its_own_seed():
    shards = Partition.parse("virtual:40").cut(SAMPLES, 10**6, 1)
    again = Partition.parse("virtual:40").cut(SAMPLES, 10, 1)
    assert len(shards) == 10**6
    assert np.array_equal(shards[7], again[7])
    assert not np.array_equal(shards[999_999], shards[999_998])
    assert all(len(np.unique(shards[client])) == 40 for client in (0, 5, 999_999))
    with pytest.raises(IndexError):
        shards[10**6]


@pytest.mark.parametrize("partition", ["virtual", "virtual:0", "virtual:2.5"])
def test_a_wrong_number_of_samples_is_refused(partition):
    with pytest.raises(InputError, match="virtual:50"):
        Partition.parse(partition)


def test_more_samples_a_client_than_there_are_is_refused():
    with pytest.raises(InputError, match="only 500 samples"):
        Partition.parse("virtual:501").cut(SAMPLES, 3, 1)


@pytest.mark.parametrize("partition", ["virtual:20", "quantity:0.5", "iid"])
def test_members_are_known_without_being_asked(task_file, partition):
    recipe = ShardRecipe(str(task_file()), None, partition, 9, 3)
    known = meet(CohortGrid(recipe, 9, (), "torch", 1, lambda *note: None), 9)
    asked = meet(InlineGrid(make_client_app(recipe), 9), 9)
    assert list(known) == asked
    grids = [OrderedGrid(None, members) for members in (known, asked)]
    for grid in grids:
        grid.excluded = {4}
    assert list(grids[0].get_node_ids()) == list(grids[1].get_node_ids())
    assert [grids[0].client_of(grids[0].node_of(client)) for client in range(9)] == list(range(9))


def test_a_run_of_two_hundred_thousand_clients_lists_those_who_took_part(simulate, task_file):
    options = ("--partition", "virtual:20", "--clients", 200_000, "--rounds", 2)
    cohort = ("--set", "strategy.fraction_train=0.0001", "--set", "strategy.fraction_evaluate=0.00005")
    done = simulate(task_file(), *options, *cohort)
    assert done.code == 0, done.err
    assert done.result["clients"] == 200_000
    assert [entry["clients_ok"] for entry in done.result["rounds"]] == [20, 20]
    with RunStore.open(done.folder) as store:
        listed = {row.id for row in store.clients()}
        assert listed == {row.client for phase in ("train", "evaluate") for row in store.client_rounds(phase)}
    assert 20 < len(listed) <= 60
