"""Clients trained together come out as each would alone with TorchTrainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedloom_client import ArraySamples, Task, Training
from fedloom_client.data.samples import Data, Shard, View
from fedloom_client.loading import load_task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.torch_trainer.isolation import reproducible
from fedloom_client.trainer import Assignment
from fedloom_simulations.engine.cohort import allocate
from fedloom_simulations.engine.vectorised.chain import Chain
from fedloom_simulations.engine.vectorised.fitting import Pupil, fit_stacked
from fedloom_simulations.engine.vectorised.schedule import steps

IMAGE, SIGNAL, ROW, TEXT = (1, 8, 8), (3, 40), (6,), (32, 13)
UNEQUAL = (23, 17, 9, 8, 3)


def samples(shape, count, classes=3, kind="float"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, *shape)).astype(np.float32)
    if kind == "tokens":
        x = rng.integers(0, 24_000, (count, *shape))
        x[:, 20:] = 0
    y = rng.integers(0, classes, count)
    return ArraySamples(x, y.astype(np.float32)[:, None] if kind == "value" else y)


def both(task, base, sizes=UNEQUAL, *, mu=0.0, own=lambda k, start: {}, **settings):
    """Arrays and metrics of every client, stacked and one by one; `own` is what else a client is asked."""
    training = replace(Training(optimizer="sgd", lr=0.05, batch_size=8), **settings)
    trainer = TorchTrainer(task)
    start = trainer.initial_arrays(1)
    ends = np.cumsum(sizes)
    parts = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    parts.sort(key=lambda part: (-steps(len(part), training), -len(part)))
    out = allocate(start, len(parts))
    asked = [
        Assignment(**{"training": training, "seed": 10 + k, "proximal_mu": mu} | own(k, start))
        for k in range(len(parts))
    ]
    pupils = list(map(Pupil, parts, asked))
    with reproducible(0):
        model = trainer.module(start)
        outcome = fit_stacked(model, task.loss, trainer.tensors(base), pupils, [start], out)
    alone = [
        trainer.fit(start, Shard(View(base, part), View(base, part[:0])), assignment)
        for part, assignment in zip(parts, asked, strict=True)
    ]
    return start, out, outcome, alone


def assert_equal(start, out, outcome, alone, *, tolerance=2e-3):
    """Updates differ by rounding only, measured against each update's length."""
    for k, update in enumerate(alone):
        ours = np.concatenate([(out[name][k] - start[name]).ravel() for name in start])
        theirs = np.concatenate([(update.arrays[name] - start[name]).ravel() for name in start])
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs), k
        assert outcome.metrics[k] == pytest.approx(dict(update.metrics), rel=1e-3, abs=1e-5)
        assert outcome.warnings[k] == update.warnings
    assert not outcome.failed


def make(model, loss="cross_entropy"):
    return Task(name="t", model=model, loss=loss, data=lambda _: Data(samples(ROW, 9), samples(ROW, 9)))


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("digits", IMAGE, "float"),
        ("mnist", (1, 28, 28), "float"),
        ("fashion", (1, 28, 28), "float"),
        ("activity", (6, 128), "float"),
        ("stocks", (20, 1), "value"),
        ("sentiment", TEXT, "tokens"),
        ("tabular", (30,), "float"),
    ],
)
def test_every_built_in_task_trains_the_same(name, shape, kind):
    task = load_task(name)
    classes = 2 if task.loss == "binary_cross_entropy" else 3
    assert_equal(*both(task, samples(shape, 60, classes, kind), epochs=2))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "momentum"},
        {"optimizer": "nesterov", "weight_decay": 0.1},
        {"optimizer": "adam", "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "rmsprop", "lr": 0.01},
        {"clip_norm": 0.05},
        {"clip_value": 0.01},
        {"clip_norm": 0.05, "clip_value": 0.02},
        {"mu": 0.5},
        {"steps": 3},
        {"batch_size": 1},
        {"batch_size": 100},
    ],
    ids=str,
)
def test_every_setting_trains_the_same(settings):
    assert_equal(*both(make(mlp), samples(ROW, 60), **{"epochs": 3, **settings}))


class Head(nn.Linear):
    def __init__(self, size):
        super().__init__(size, 3)


class Gated(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.gru = nn.GRU(3, 5, **settings)
        self.head = nn.Linear(5 * (2 if settings.get("bidirectional") else 1), 3)

    def forward(self, x):
        x = x.transpose(1, 2)
        if not self.gru.batch_first:
            return self.head(self.gru(x.transpose(0, 1))[0][-1])
        return self.head(self.gru(x)[0].mean(1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(0.3), nn.Flatten(), Head(144)), IMAGE),
        (lambda: nn.Sequential(nn.Conv1d(3, 6, 5, 2, groups=3), nn.Flatten(), Head(108)), SIGNAL),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), ROW),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)), ROW),
        (lambda: Gated(batch_first=True, num_layers=2, dropout=0.2), SIGNAL),
        (lambda: Gated(batch_first=True, bidirectional=True, bias=False), SIGNAL),
        (lambda: Gated(), SIGNAL),
    ],
)  # fmt: skip
def test_layers_train_the_same(model, shape):
    assert_equal(*both(make(model), samples(shape, 60), epochs=2))


def wide(channels):
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=4),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 48, 1),
        nn.BatchNorm2d(48, affine=False, track_running_stats=False),
        nn.GELU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(48 * 4 * 4, 3),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"batch_size": 1, "steps": 3}])
def test_large_convolutions_are_left_to_each_client_and_train_the_same(channels, settings):
    base = samples((channels, 32, 32), sum(UNEQUAL))
    given, training = base.x.copy(), {"optimizer": "momentum", "momentum": 0.5} | settings
    model = wide(channels)
    assert Chain.of(model).works_apart(torch.zeros(8, channels, 32, 32))
    model[1].weight.requires_grad_(False)
    assert_equal(*both(make(lambda: model), base, **training))
    assert np.array_equal(base.x, given)


def test_weights_that_two_layers_share_stay_shared():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.head(self.other(self.one(x).relu()).relu())

    start, out, outcome, alone = both(make(Shared), samples(ROW, 60))
    assert_equal(start, out, outcome, alone)
    assert np.array_equal(out["one.weight"], out["other.weight"])


def test_frozen_weights_stay_as_they_are():
    def frozen():
        model = mlp()
        model[0].requires_grad_(False)
        return model

    start, out, outcome, alone = both(make(frozen), samples(ROW, 60), weight_decay=0.1)
    assert_equal(start, out, outcome, alone)
    assert np.array_equal(out["0.weight"][0], start["0.weight"])


def test_a_client_whose_loss_is_not_finite_is_told_apart_and_harms_nobody():
    base = samples(ROW, 60)
    base.x[0] = np.nan  # the first client's
    trainer = TorchTrainer(make(mlp))
    start = trainer.initial_arrays(1)
    out = allocate(start, 2)
    outcome = fit_stacked(
        trainer.module(start), "cross_entropy", trainer.tensors(base), two_pupils(), [start], out
    )
    assert outcome.failed == {0}
    assert all(np.isfinite(stack[1]).all() for stack in out.values())


def two_pupils():
    training = Training(optimizer="sgd", batch_size=10)
    return [
        Pupil(np.arange(20 * k, 20 * k + 20), Assignment(training=training, seed=k + 1)) for k in range(2)
    ]


def noise_of(k, start):
    """Arrays like `start`, others for each client."""
    draw = np.random.default_rng(k)
    return {name: draw.normal(size=a.shape).astype(np.float32) / 10 for name, a in start.items()}


@pytest.mark.parametrize(
    "own",
    [
        lambda k, start: {"offset": noise_of(k, start)},  # SCAFFOLD's and FedDyn's
        lambda k, start: {"anchor": noise_of(k, start)},  # Ditto's
        lambda k, start: {"frozen": frozenset(["0.weight", "0.bias"])},  # FedRep's
        lambda k, start: {"frozen": frozenset(["2.weight", "2.bias"])},
        lambda k, start: {"training": Training(batch_size=8, steps=3 - k // 2)},  # FedProx's stragglers
    ],
    ids=["offset", "anchor", "body frozen", "head frozen", "steps"],
)
@pytest.mark.parametrize("kind", ["chain", "vmap"])
def test_what_an_algorithm_asks_of_a_client_is_done_stacked_too(own, kind):
    task = make(mlp if kind == "chain" else lambda: Doubled(*mlp()))
    start, out, outcome, alone = both(task, samples(ROW, 60), mu=0.3, own=own)
    assert_equal(start, out, outcome, alone)


class Doubled(nn.Sequential):
    """A model with code of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_clients_may_start_from_different_arrays():
    trainer = TorchTrainer(make(mlp))
    starts = [trainer.initial_arrays(seed) for seed in (1, 2)]
    base, pupils = samples(ROW, 60), two_pupils()
    out = allocate(starts[0], 2)
    with reproducible(0):
        model = trainer.module(starts[0])
        fit_stacked(model, "cross_entropy", trainer.tensors(base), pupils, starts, out)
    for k, start in enumerate(starts):
        shard = Shard(View(base, pupils[k].examples), View(base, np.arange(0)))
        alone = trainer.fit(start, shard, pupils[k].assignment)
        for name, array in alone.arrays.items():
            assert np.allclose(out[name][k], array, rtol=1e-4, atol=1e-6)


def test_noise_that_is_not_dropout_is_refused():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    with pytest.raises(RuntimeError, match="random"):
        both(make(lambda: Noisy(6, 3)), samples(ROW, 60))


class Wrapped(nn.Module):
    """A model that is no chain of known layers, whatever is inside."""

    def __init__(self, *layers):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x):
        return self.inner(x)


LAYERS = {
    "linear": (lambda: (nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 3)), ROW),
    "norms": (lambda: (nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.BatchNorm1d(8), Head(8)), ROW),
    "convolution": (
        lambda: (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.GroupNorm(2, 6),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.2),
            nn.Conv2d(6, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        IMAGE,
    ),
}


@pytest.mark.parametrize("wrap", [nn.Sequential, Wrapped])
@pytest.mark.parametrize("name", LAYERS)
def test_chains_of_known_layers_and_all_other_models_train_the_same(name, wrap):
    layers, shape = LAYERS[name]
    known = wrap is nn.Sequential and name != "norms"  # a subclass of a layer is none that is known
    assert (Chain.of(wrap(*layers())) is not None) == known
    assert_equal(*both(make(lambda: wrap(*layers())), samples(shape, 60), epochs=2))


def test_a_layer_that_is_shared_or_watched_is_no_known_chain():
    shared = nn.Linear(6, 6)
    assert Chain.of(nn.Sequential(shared, nn.ReLU(), shared)) is None
    watched = nn.Linear(6, 3)
    watched.register_forward_hook(lambda *_: None)
    assert Chain.of(nn.Sequential(watched)) is None
