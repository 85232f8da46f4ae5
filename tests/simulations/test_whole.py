"""Clients that do more than train, several at a time: what they come to is what each comes to alone."""

import random

import numpy as np
import pytest

from fedloom_client.algorithms.registry import ALGORITHMS
from fedloom_client.data.shards import ShardRecipe
from fedloom_edge.arrays import load_arrays
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.engine.cohort_grid import CohortGrid

from . import small_runs
from .small_runs import CLIENTS, SmallRuns, equal

RUN = ("tabular", "--clients", 8, "--rounds", 3, "--partition", "dirichlet:0.5", "--seed", 3)
SGD = ("--set", "training.optimizer=momentum", "--set", "training.lr=0.02", "--set", "training.epochs=2")
ROWS = "rng.normal(size=(120, 4))"
BATCH_NORM = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))"


def figures(done):
    """Round, phase, client -> what it reported."""
    with RunStore.open(done.folder) as store:
        return {
            (row.round, phase, row.client): (row.status, row.metric)
            for phase in ("train", "evaluate")
            for row in store.client_rounds(phase)
        }


def assert_alike(first, second):
    assert (first.code, second.code) == (0, 0), first.err + second.err
    ours, theirs = (load_arrays(done.folder / "model.safetensors") for done in (first, second))
    for name, array in ours.items():
        assert np.allclose(array, theirs[name], atol=2e-3), name
    told, other = figures(first), figures(second)
    assert told.keys() == other.keys()
    for key, (status, metric) in told.items():
        assert status == other[key][0]
        assert metric == pytest.approx(other[key][1], abs=0.06), key


@pytest.mark.parametrize("strategy", ALGORITHMS)
def test_an_algorithm_comes_to_the_same_stacked(simulate, task_file, strategy):
    task = (
        (task_file(model=BATCH_NORM), "--clients", 5, "--rounds", 3, "--partition", "quantity:1")
        if strategy == "fedbn"
        else RUN
    )
    options = (*SGD, "--strategy", strategy)
    torch, vmap = (simulate(*task, *options, "--backend", name) for name in ("torch", "vmap"))
    assert vmap.result["backend"] == "vmap", vmap.err
    assert_alike(torch, vmap)


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        (("--compress", "int8"), "vmap"),
        (("--strategy", "apfl"), "onnx"),
        (("--mode", "async", "--set", "clock.slow=0.25", "--set", "clock.buffer=3"), "vmap"),
        (("--mode", "semisync", "--set", "clock.slow=0.25", "--strategy", "scaffold"), "vmap"),
        (("--compress", "topk:0.1", "--faults", "drop=0.2,crash=0.1"), "onnx"),
    ],
    ids=str,
)
def test_what_is_around_training_comes_to_the_same(simulate, task_file, options, backend):
    task = (task_file(model=BATCH_NORM), "--clients", 5, "--rounds", 3, *SGD)
    torch, other = (simulate(*task, *options, "--backend", name) for name in ("torch", backend))
    assert other.result["backend"] == backend, other.err
    assert_alike(torch, other)


@pytest.mark.parametrize("backend", ["torch", "vmap"])
@pytest.mark.parametrize(
    "options",
    [
        ("--strategy", "ditto", "--compress", "int8"),
        ("--strategy", "ifca"),
        ("--mode", "async", "--set", "clock.slow=0.25", "--set", "clock.buffer=3"),
    ],
    ids=lambda options: options[1],
)
def test_the_number_of_workers_changes_no_bit(simulate, backend, options):
    runs = [simulate(*RUN, *SGD, *options, "--backend", backend, "--workers", workers) for workers in (1, 3)]
    assert {run.code for run in runs} == {0}, runs[0].err
    assert len({run.result["arrays_sha256"] for run in runs}) == 1
    assert figures(runs[0]) == figures(runs[1])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("strategy", ["scaffold", "fedrep"])
def test_a_run_that_dies_at_every_few_replies_comes_to_the_same_bits(
    tmp_path, monkeypatch, strategy, workers
):
    runs = SmallRuns(tmp_path)
    recipe = ShardRecipe(str(tmp_path / "small.py"), None, "iid", CLIENTS, 0)
    open_grids = []

    def grid(*given):
        open_grids.append(CohortGrid(recipe, CLIENTS, (), "vmap", workers, lambda *note: None))
        return open_grids[-1]

    monkeypatch.setattr(small_runs, "InlineGrid", grid)
    *_, whole = runs.go("whole", strategy, partition="iid", rounds=4)
    instants, broken, lives = random.Random(strategy), None, 0
    while broken is None:
        broken = runs.go("broken", strategy, partition="iid", rounds=4, kill=instants.randint(5, 8))
        lives += 1
    for left in open_grids:
        left.close()
    assert lives > 3
    assert equal(broken[-1], whole)


def test_a_client_that_fails_among_others_fails_alone_and_in_torchs_words(simulate, task_file):
    huge = "huge = np.where(np.arange(120) < 3, 1e38, 1)[:, None]"
    task = task_file(huge, x=f"({ROWS} * huge).astype('f')")
    options = ("--strategy", "scaffold", "--clients", 6, "--rounds", 1, *SGD)
    torch, vmap = (simulate(task, *options, "--backend", name) for name in ("torch", "vmap"))
    reasons = []
    for done in (torch, vmap):
        with RunStore.open(done.folder) as store:
            reasons.append([row.reason for row in store.client_rounds("train") if row.status != "ok"])
    assert 1 <= len(reasons[0]) < 6
    assert reasons[0] == reasons[1]


def test_what_clients_took_adds_up_to_no_more_than_the_round_in_one_process(simulate):
    done = simulate(*RUN, *SGD, "--strategy", "ditto", "--backend", "vmap", "--workers", 1)
    with RunStore.open(done.folder) as store:
        for entry in store.rounds()[1:]:
            took = sum(row.seconds for row in store.client_rounds("train") if row.round == entry.number)
            assert 0 < took <= entry.seconds
