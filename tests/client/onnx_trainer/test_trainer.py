"""OnnxTrainer has TorchTrainer's face and, but for rounding, its results."""

import dataclasses
import importlib

import numpy as np
import pytest
from torch import nn

from fedloom_client import ArraySamples, Data, Shard, Task, Training
from fedloom_client.onnx_trainer import OnnxTrainer, TaskGraphs
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment
from fedloom_edge.errors import TrainingError

SHAPES = {
    "digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion": (1, 28, 28), "tabular": (30,), "stocks": (20, 1),
    "activity": (6, 128), "sentiment": (32, 13),
}  # fmt: skip


def without_dropout(make):
    def model():
        module = make()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            elif isinstance(part, nn.MultiheadAttention):
                part.dropout = 0.0
        return module

    return model


def samples(name, loss, count, seed):
    rng = np.random.default_rng(seed)
    if name == "sentiment":
        x = rng.integers(0, 6000, (count, *SHAPES[name])) * (rng.random((count, *SHAPES[name])) < 0.6)
    else:
        x = rng.normal(size=(count, *SHAPES[name])).astype(np.float32)
    classes = {"cross_entropy": 3, "binary_cross_entropy": 2}.get(loss)
    y = rng.integers(0, classes, count) if classes else rng.normal(size=(count, 1)).astype(np.float32)
    return ArraySamples(x, y)


def pair(task, trainable="all"):
    return TorchTrainer(task), OnnxTrainer(TaskGraphs(task, trainable), task.loss, task.metrics)


def small(model=lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), **parts):
    return Task(name="t", model=model, data=lambda _: Data(None, None), **parts)


def shard(count=50, loss="cross_entropy"):
    def part(n, seed):
        x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
        return ArraySamples(x, x[:, :3].argmax(1) if loss == "cross_entropy" else x[:, :3] * 3)

    return Shard(part(count, 0), part(20, 1))


def agree(ours, theirs, tolerance=1e-3):
    assert list(ours.arrays) == list(theirs.arrays)
    for name, array in theirs.arrays.items():
        scale = max(float(np.abs(array).max()), 1e-2)
        assert np.abs(ours.arrays[name] - array).max() <= tolerance * scale, name
    assert ours.metrics.keys() == theirs.metrics.keys()
    for name, value in theirs.metrics.items():
        assert ours.metrics[name] == pytest.approx(value, rel=tolerance, abs=1e-6), name


@pytest.mark.parametrize("name", SHAPES)
def test_a_built_in_task_trains_to_torchs_arrays(name):
    task = importlib.import_module(f"fedloom_client.tasks.{name}").task
    task = dataclasses.replace(task, model=without_dropout(task.model))
    # sgd, since adam turns the rounding of a gradient near zero into a whole step
    training = Training(optimizer="momentum", lr=0.01, batch_size=8, epochs=2, clip_norm=5.0)
    own = Shard(samples(name, task.loss, 60, 0), samples(name, task.loss, 20, 1))
    theirs, ours = pair(task)
    start = theirs.initial_arrays(1)
    assignment = Assignment(training=training, seed=5)
    mine, other = (trainer.fit(start, own, assignment) for trainer in (ours, theirs))
    agree(mine, other)
    assert ours.statistics == theirs.statistics
    ours_after, theirs_after = (t.evaluate(other.arrays, own.validation) for t in (ours, theirs))
    assert ours_after.loss == pytest.approx(theirs_after.loss, rel=1e-4)
    assert ours_after.metrics == pytest.approx(theirs_after.metrics, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"clip_value": 0.02, "clip_norm": 0.05},
        {"clip_norm": 0.3},
        {"momentum": 0.0},
    ],
    ids=str,
)
def test_every_optimiser_and_bound_as_in_torch(optimizer, settings):
    theirs, ours = pair(small())
    training = Training(**{"optimizer": optimizer, "lr": 0.02, "batch_size": 8, "epochs": 7} | settings)
    start = theirs.initial_arrays(0)
    assignment = Assignment(training=training, seed=3)
    agree(*(trainer.fit(start, shard(), assignment) for trainer in (ours, theirs)))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse", "huber"])
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_every_loss_with_and_without_the_proximal_term(loss, mu):
    theirs, ours = pair(small(loss=loss))
    own = shard(loss=loss)
    if loss == "binary_cross_entropy":
        own = Shard(*(ArraySamples(s.x, (s.y > 0).astype(np.float32)) for s in (own.train, own.validation)))
    start = theirs.initial_arrays(0)
    assignment = Assignment(training=Training(optimizer="sgd", lr=0.1, epochs=5), seed=3, proximal_mu=mu)
    agree(*(trainer.fit(start, own, assignment) for trainer in (ours, theirs)))
    ours_after, theirs_after = (t.evaluate(start, own.validation) for t in (ours, theirs))
    assert ours_after.loss == pytest.approx(theirs_after.loss, rel=1e-5)


def noise(start, seed):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=a.shape).astype(np.float32) / 10 for name, a in start.items()}


def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


HEAD = frozenset(["3.weight", "3.bias"])
BODY = frozenset(["0.weight", "0.bias", "1.weight", "1.bias"])


@pytest.mark.parametrize(
    "asked",
    [
        lambda start: {"offset": noise(start, 1)},  # SCAFFOLD's
        lambda start: {"offset": noise(start, 1), "proximal_mu": 0.3},  # FedDyn's
        lambda start: {"anchor": noise(start, 2), "proximal_mu": 0.3},  # Ditto's
        lambda start: {"frozen": HEAD},  # FedRep's
        lambda start: {"frozen": BODY | {"1.running_mean", "1.running_var"}},
    ],
    ids=["offset", "offset and pull", "anchor", "head frozen", "body frozen"],
)
@pytest.mark.parametrize(
    "settings", [{}, {"clip_norm": 0.1}, {"optimizer": "nesterov", "weight_decay": 0.1}], ids=str
)
def test_what_an_algorithm_asks_of_a_client_as_in_torch(asked, settings):
    theirs, ours = pair(small(normed))
    training = Training(**{"optimizer": "momentum", "lr": 0.02, "batch_size": 8, "epochs": 3} | settings)
    for seed in (0, 1):  # the second time with the graph of the first
        start = theirs.initial_arrays(seed)
        assignment = Assignment(training=training, seed=3, **asked(start))
        agree(*(trainer.fit(start, shard(), assignment) for trainer in (ours, theirs)))


def test_early_stopping_and_bounded_steps_as_in_torch():
    theirs, ours = pair(small())
    start = theirs.initial_arrays(0)
    for settings in ({"patience": 1, "epochs": 30, "lr": 2.0}, {"steps": 3, "epochs": 2}):
        training = Training(**{"optimizer": "sgd", "lr": 0.1, "batch_size": 20} | settings)
        agree(*(t.fit(start, shard(), Assignment(training=training, seed=3)) for t in (ours, theirs)))


def test_a_single_example_keeps_the_running_statistics():
    theirs, ours = pair(small(normed))
    start = theirs.initial_arrays(0)
    own = shard(1)
    agree(*(t.fit(start, own, Assignment(training=Training(lr=0.1), seed=3)) for t in (ours, theirs)))


def test_shared_weights_stay_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.head(self.second(self.first(x).tanh()))

    theirs, ours = pair(small(Tied))
    start = theirs.initial_arrays(0)
    agree(*(t.fit(start, shard(), Assignment(training=Training(lr=0.1), seed=3)) for t in (ours, theirs)))


def test_equal_arguments_give_equal_bits_with_dropout():
    task = small(lambda: nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 3)))
    _, ours = pair(task)
    start = ours.initial_arrays(0)
    runs = [ours.fit(start, shard(), Assignment(training=Training(), seed=seed)).arrays for seed in (3, 4, 3)]
    for name in start:
        assert np.array_equal(runs[0][name], runs[2][name])
    assert any(not np.array_equal(runs[0][name], runs[1][name]) for name in start)


def test_only_the_last_layer_changes_when_it_alone_is_trained():
    task = small()
    _, ours = pair(task, "last:1")
    for seed in (0, 1):  # other frozen arrays, so another graph
        start = ours.initial_arrays(seed)
        update = ours.fit(start, shard(), Assignment(training=Training(lr=0.1), seed=3))
        changed = {name for name in start if not np.array_equal(start[name], update.arrays[name])}
        assert changed == {"2.weight", "2.bias"}
        before, after = (ours.evaluate(a, shard().train).loss for a in (start, update.arrays))
        assert after < before


def test_a_loss_that_is_not_finite_names_the_step():
    _, ours = pair(small())
    own = shard()
    own.train.x[7] = np.nan
    with pytest.raises(TrainingError, match="step"):
        ours.fit(ours.initial_arrays(0), own, Assignment(training=Training(), seed=3))


@pytest.mark.parametrize(("scale", "warned"), [(0.1, "vanish in layer 0.weight"), (1.0, "")])
def test_vanishing_gradients_are_told_as_torch_tells_them(scale, warned):
    def model():
        layers = [part for _ in range(8) for part in (nn.Linear(4, 4), nn.Sigmoid() if warned else nn.Tanh())]
        for layer in layers[::2]:
            nn.init.normal_(layer.weight, std=scale)
        return nn.Sequential(*layers, nn.Linear(4, 3))

    theirs, ours = pair(small(model))
    assignment = Assignment(training=Training(optimizer="sgd", lr=0.01), seed=3)
    said = [t.fit(theirs.initial_arrays(0), shard(), assignment).warnings for t in (ours, theirs)]
    assert said[0] == said[1]
    assert warned in "".join(said[0])
    assert bool(said[0]) == bool(warned)


def test_partial_work_is_the_steps_before_the_end_and_counts_what_was_seen():
    task = importlib.import_module("fedloom_client.tasks.tabular").task
    training = dataclasses.replace(task.training, batch_size=8, epochs=3)
    task = dataclasses.replace(task, model=without_dropout(task.model))
    shard = Shard(samples("tabular", task.loss, 40, 1), samples("tabular", task.loss, 8, 2))
    arrays = TorchTrainer(task).initial_arrays(0)
    for trainer in pair(task):
        for steps, counted in ((1, 8), (3, 24), (7, 40)):
            asked = iter(range(1, 100))
            enough = lambda asked=asked, steps=steps: next(asked) == steps  # noqa: E731
            cut = trainer.fit(arrays, shard, Assignment(training=training, seed=1, enough=enough))
            bounded = dataclasses.replace(training, steps=steps)
            whole = trainer.fit(arrays, shard, Assignment(training=bounded, seed=1))
            assert cut.examples == counted
            assert cut.metrics == whole.metrics
            for name, array in whole.arrays.items():
                np.testing.assert_array_equal(cut.arrays[name], array)
