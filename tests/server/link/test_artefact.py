"""The artefact of a run trains on a device what torch would train, whatever the model is made of."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedloom_client import ArraySamples, Data, Shard, Standardize, Task, Training
from fedloom_client.algorithms.registry import ALGORITHMS
from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.node import Node
from fedloom_client.orders import Given, Orders, evaluate, train
from fedloom_client.seeds import derive_seed
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment
from fedloom_edge.artefact.manifest import INFER, INT8
from fedloom_edge.artefact.serving import predict
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.errors import DataError, TrainingError
from fedloom_server.link.artefact import run_artefact
from fedloom_server.rounds.plan import Plan
from fedloom_server.strategies.registry import make_strategy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int64)
SAMPLES = ArraySamples(X, Y)
DATA = Data(SAMPLES, SAMPLES)


def plain():
    # Before a normalisation a bias has no gradient but rounding, of which Adam would make steps.
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def frozen():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    for parameter in model[:3].parameters():  # as if they were pretrained
        parameter.requires_grad_(False).copy_(
            torch.linspace(-1, 1, parameter.numel()).view_as(parameter).sin()
        )
    return model


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu())


def task_of(model, **training):
    settings = Training(**{"lr": 0.05, "batch_size": 8, "epochs": 2, **training})
    return Task(name="mine", model=model, data=lambda _: DATA, preprocess=Standardize(), training=settings)


def plan_of(task):
    return Plan(task=task, training=task.training, rounds=1, clients=1, seed=3)


def equipped(task, tmp_path, **strategy):
    path, why = run_artefact(plan_of(task), SimpleNamespace(**strategy), DATA, tmp_path)
    assert path is not None, why
    trainer = ArtefactTrainer(task, tmp_path)
    trainer.equip(path)
    return trainer


@pytest.mark.parametrize("model", [plain, frozen, Tied])
@pytest.mark.parametrize("training", [{}, {"optimizer": "adam", "clip_norm": 0.5}, {"batch_size": 1}])
def test_it_trains_as_torch_trains(tmp_path, model, training):
    task = task_of(model, **training)
    if model is plain and training.get("batch_size") == 1:
        pytest.skip("torch has no batch statistics of one example")
    theirs, ours = TorchTrainer(task), equipped(task, tmp_path)
    arrays = theirs.initial_arrays(derive_seed(3, "initial"))
    shard = Shard(SAMPLES, ArraySamples(X[:20], Y[:20]))
    assignment = Assignment(training=task.training, seed=1)
    expected, got = (trainer.fit(arrays, shard, assignment) for trainer in (theirs, ours))
    assert list(got.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(got.arrays[name], array, rtol=2e-3, atol=2e-5, err_msg=name)
        assert got.arrays[name].dtype == array.dtype
    assert {*got.metrics} >= {"train-loss", "gradient-norm", "steps", "epochs"}
    for trained in (arrays, expected.arrays):
        ours_now, theirs_now = (t.evaluate(trained, shard.validation) for t in (ours, theirs))
        assert ours_now.loss == pytest.approx(theirs_now.loss, rel=1e-3)
        assert ours_now.metrics == pytest.approx(theirs_now.metrics)


def test_fedproxs_term_is_in_the_step_if_the_strategy_has_it(tmp_path):
    task = task_of(plain)
    theirs, ours = TorchTrainer(task), equipped(task, tmp_path, proximal_mu=0.5)
    arrays, shard = theirs.initial_arrays(7), Shard(SAMPLES, SAMPLES)
    assignment = Assignment(training=task.training, seed=1, proximal_mu=0.5)
    expected, got = (trainer.fit(arrays, shard, assignment) for trainer in (theirs, ours))
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(got.arrays[name], array, rtol=2e-3, atol=2e-5, err_msg=name)


def test_frozen_layers_that_a_strategy_changed_are_not_trained_behind(tmp_path):
    task = task_of(frozen)
    ours = equipped(task, tmp_path)
    arrays = TorchTrainer(task).initial_arrays(derive_seed(3, "initial"))
    arrays["0.weight"] = arrays["0.weight"] + 0.1
    with pytest.raises(TrainingError, match=r"0\.weight is frozen in the artefact"):
        ours.evaluate(arrays, SAMPLES)


def rounds_of(algorithm, trainer, arrays, training, draw):
    """Two rounds of one client: what it sent in each, what it kept, and how its own model measures."""
    shard = Shard(SAMPLES, ArraySamples(X[:20], Y[:20]))
    node = Node(replace(task_of(plain), preprocess=None), shard, trainer)
    orders, broadcast = Orders(algorithm=algorithm), algorithm.broadcast(algorithm.init(arrays, draw))
    found, memory = [], {}
    for seed in (1, 2):
        given = Given(arrays=arrays, broadcast=broadcast, constants={}, memory=memory)
        update, memory = train(node, given, Assignment(training=training, seed=seed), orders)
        moved = tuple(n for n, array in arrays.items() if not np.array_equal(array, update.arrays[n]))
        found.append(arrays := update.arrays)
        broadcast = {n: a + np.float32(0.01) if n.endswith(moved) else a for n, a in broadcast.items()}
    return [*found, memory, evaluate(node, replace(given, memory=memory), orders)]


# FedBN needs batch norm, FedRep two layers that are trained.
ELSEWHERE = {frozen: {"fedbn", "fedrep"}, Tied: {"fedbn", "fedrep"}, plain: set()}


@pytest.mark.parametrize(
    ("model", "name"), [(m, n) for m, without in ELSEWHERE.items() for n in ALGORITHMS if n not in without]
)
def test_every_algorithm_comes_to_what_it_comes_to_with_torch(tmp_path, name, model):
    task = task_of(model, optimizer="momentum")
    strategy = make_strategy(name, {}, clients=2, lr=0.05, optimizer="momentum")
    path, why = run_artefact(plan_of(task), strategy, DATA, tmp_path)
    assert path is not None, why
    ours, theirs = ArtefactTrainer(task, tmp_path), TorchTrainer(task)
    ours.equip(path)
    arrays = theirs.initial_arrays(derive_seed(3, "initial"))
    draw = theirs.initial_arrays
    got, expected = (rounds_of(strategy.algorithm, t, arrays, task.training, draw) for t in (ours, theirs))
    assert len(got) == len(expected)
    for mine, other in zip(got[:-1], expected[:-1], strict=True):
        assert mine.keys() == other.keys()
        for key, array in other.items():
            np.testing.assert_allclose(mine[key], array, rtol=5e-3, atol=5e-5, err_msg=key)
    assert got[-1].metrics == pytest.approx(expected[-1].metrics)
    assert got[-1].loss == pytest.approx(expected[-1].loss, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "parts"), [("fedavg", ["last:1"]), ("scaffold", []), ("fedrep", ["rest:1", "rest:2"])]
)
def test_parts_are_for_devices_that_train_without_an_algorithm(tmp_path, name, parts):
    plan = replace(plan_of(task_of(plain)), orders=Orders(plan=True))
    path, _ = run_artefact(plan, make_strategy(name, {}, clients=2, lr=0.05, optimizer="sgd"), DATA, tmp_path)
    manifest = Artefact(path).manifest
    assert list(manifest.parts) == parts
    assert [*manifest.smaller] == [part for part in parts if part.startswith("last")]


def test_it_is_made_once_a_run(tmp_path):
    path, _ = run_artefact(plan_of(task_of(plain)), SimpleNamespace(), DATA, tmp_path)
    before = path.stat().st_mtime_ns
    assert run_artefact(plan_of(task_of(plain)), SimpleNamespace(), DATA, tmp_path) == (path, "")
    assert path.stat().st_mtime_ns == before


def test_an_artefact_of_another_task_or_a_damaged_one_is_not_run(tmp_path):
    trainer = equipped(task_of(plain), tmp_path)
    other = ArtefactTrainer(Task(name="other", model=plain, data=lambda _: DATA), tmp_path)
    other.equip(tmp_path / "artefact.fedloom")
    with pytest.raises(DataError, match="the artefact is for mine"):
        other.evaluate({}, SAMPLES)
    damaged = tmp_path / "damaged.fedloom"
    content = bytearray((tmp_path / "artefact.fedloom").read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    trainer.equip(damaged)
    with pytest.raises(DataError, match=r"damaged.fedloom"):
        trainer.evaluate({}, SAMPLES)


def test_before_it_is_there_nothing_is_trained(tmp_path):
    with pytest.raises(TrainingError, match="is not here"):
        ArtefactTrainer(task_of(plain), tmp_path).initial_arrays(0)


@pytest.mark.parametrize("model", [plain, frozen])
def test_a_trainer_that_rested_holds_no_session_and_trains_as_before(tmp_path, model):
    task = task_of(model)
    ours = equipped(task, tmp_path)
    arrays = TorchTrainer(task).initial_arrays(derive_seed(3, "initial"))
    shard = Shard(SAMPLES, ArraySamples(X[:20], Y[:20]))
    assignment = Assignment(training=task.training, seed=1)
    before = ours.fit(arrays, shard, assignment)
    held = weakref.ref(ours._trainer)
    ours.rest()
    gc.collect()
    assert held() is None
    after = ours.fit(arrays, shard, assignment)
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], array)


def test_behind_a_frozen_part_a_device_can_answer_in_int8_with_what_was_trained(tmp_path):
    task = task_of(frozen, epochs=40, lr=0.2)
    ours = equipped(task, tmp_path)
    arrays = TorchTrainer(task).initial_arrays(derive_seed(3, "initial"))
    update = ours.fit(arrays, Shard(SAMPLES, SAMPLES), Assignment(training=task.training, seed=1))
    manifest, models = ours.models({**arrays, **update.arrays})
    assert {*models} == {INFER, INT8}
    assert manifest.kind == "head"
    before = ours.models(arrays)[1]
    plain, small, untrained = (predict(m, X) for m in (models[INFER], models[INT8], before[INT8]))
    assert np.abs(plain - small).mean() < 0.05 * np.abs(plain).max()
    assert np.mean(small.argmax(axis=1) == plain.argmax(axis=1)) > 0.9
    assert np.abs(plain - untrained).mean() > 4 * np.abs(plain - small).mean()


def test_where_everything_is_trained_there_is_no_int8_to_go_stale(tmp_path):
    assert (
        INT8
        not in equipped(task_of(plain), tmp_path).models(TorchTrainer(task_of(plain)).initial_arrays(0))[1]
    )
