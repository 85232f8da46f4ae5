"""DP-SGD: the gradient of every single example, bounded, and noise of the deviation that is accounted for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedloom_client.data.samples import ArraySamples, Shard
from fedloom_client.task import Task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.torch_trainer.losses import LOSSES
from fedloom_client.torch_trainer.private_step import (
    PrivateStep,
    clipped_sum,
    gradients_one_by_one,
    per_example_gradients,
)
from fedloom_client.trainer import Assignment
from fedloom_client.training import Training
from fedloom_edge.errors import InputError, TrainingError

PRIVATE = Training(optimizer="sgd", lr=0.1, batch_size=8, dp_noise=1.0, dp_clip=0.5)
MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)), (16,)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
        ),
        (1, 4, 4),
    ),
    "attention": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0), nn.Flatten(), nn.Linear(16, 3)
        ),
        (4, 4),
    ),
}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


MODELS["recurrent"] = (Recurrent, (4, 4))


def by_hand(model, x, y):
    """One backward pass an example with nothing of ours in it."""
    found = []
    for one, target in zip(x, y, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(one[None]), target[None]).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    model.zero_grad()
    return {name: torch.stack([row[name] for row in found]) for name in found[0]}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.integers(1, 6), st.integers(0, 2**31), st.floats(0.01, 10))
def test_gradients_are_those_of_each_example_alone(name, count, seed, scale):
    torch.manual_seed(seed)
    factory, shape = MODELS[name]
    model = factory()
    x, y = torch.randn(count, *shape) * scale, torch.randint(0, 3, (count,))
    names = [key for key, _ in model.named_parameters()]
    expected = by_hand(model, x, y)
    ways = [gradients_one_by_one] + ([] if name == "recurrent" else [per_example_gradients])
    for way in ways:
        gradients, losses = way(model, LOSSES["cross_entropy"], names, x, y)
        assert losses.shape == (count,)
        for key, gradient in expected.items():
            assert torch.allclose(gradients[key], gradient, rtol=1e-3, atol=1e-5 * max(scale, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.floats(1e-3, 1e3), st.floats(1e-4, 1e4), st.integers(0, 2**31))
def test_no_example_moves_the_sum_by_more_than_the_bound(count, bound, scale, seed):
    torch.manual_seed(seed)
    gradients = {"w": torch.randn(count, 3, 2) * scale, "b": torch.randn(count, 2) * scale}
    whole = clipped_sum(gradients, bound)
    without = clipped_sum({name: g[1:] for name, g in gradients.items()}, bound)
    moved = torch.cat([(whole[name] - without[name]).flatten() for name in gradients]).norm()
    assert moved <= bound * (1 + 1e-3 * count)


def test_short_gradients_are_left_alone_and_zeros_stay_zero():
    gradients = {"w": torch.tensor([[0.3, 0.4], [0.0, 0.0], [30.0, 40.0]])}
    assert torch.allclose(clipped_sum(gradients, 1.0)["w"], torch.tensor([0.9, 1.2]))


def step_on(examples, **changes):
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 3))
    training = Training(**{**vars(PRIVATE), **changes})
    return PrivateStep(model, LOSSES["cross_entropy"], Assignment(training=training, seed=1), examples)


def test_the_noise_has_the_deviation_that_the_accountant_is_told():
    step = step_on(100, dp_noise=3.0, dp_clip=2.0)
    step(torch.zeros(0, 200), torch.zeros(0, dtype=torch.int64), epoch=1)  # coins may leave a batch empty
    noise = step.parameters[0].grad
    assert abs(float(noise.std()) / (3.0 * 2.0 / 8) - 1) < 0.02


def test_batches_are_drawn_by_coins():
    step = step_on(1000, batch_size=100)
    batches = [batch for _ in range(50) for batch in step.batches(np.random.default_rng(0))]
    assert len(batches) == 500
    assert abs(np.mean([len(batch) for batch in batches]) - 100) < 2
    assert abs(np.var([len(batch) for batch in batches]) - 90) < 20  # n q (1 - q)
    counts = np.bincount(np.concatenate(batches), minlength=1000)
    assert abs(counts.mean() - 50) < 1
    assert counts.min() > 20


def test_a_batch_larger_than_the_shard_takes_every_example():
    step = step_on(5)
    assert [list(batch) for batch in step.batches(np.random.default_rng(0))] == [[0, 1, 2, 3, 4]]


def test_memory_is_bounded_by_parts_with_the_same_sum():
    torch.manual_seed(0)
    x, y = torch.randn(9, 200), torch.randint(0, 3, (9,))
    first, second = step_on(9), step_on(9)
    second.model.load_state_dict(first.model.state_dict())
    second.at_once = 2
    for step in (first, second):
        step(x, y, epoch=1)
    for p, q in zip(first.parameters, second.parameters, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def trainer_of(model):
    return TorchTrainer(Task(name="t", clients=1, model=model, data=None))


@pytest.fixture
def shard():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    return Shard(ArraySamples(x, x[:, :3].argmax(1)), ArraySamples(x[:5], x[:5, :3].argmax(1)))


def test_equal_seeds_give_equal_bits_and_the_system_s_noise_never(shard):
    trainer = trainer_of(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)))
    arrays = trainer.initial_arrays(0)
    found = [
        trainer.fit(arrays, shard, Assignment(training=PRIVATE, seed=seed, secret=secret)).arrays["0.weight"]
        for seed, secret in [(1, False), (1, False), (2, False), (1, True), (1, True)]
    ]
    assert np.array_equal(found[0], found[1])
    assert len({array.tobytes() for array in found}) == 4


def test_it_learns_where_noise_is_low(shard):
    trainer = trainer_of(lambda: nn.Linear(4, 3))
    training = Training(optimizer="adam", lr=0.05, batch_size=20, epochs=30, dp_noise=0.1, dp_clip=1.0)
    update = trainer.fit(trainer.initial_arrays(0), shard, Assignment(training=training, seed=0))
    assert trainer.evaluate(update.arrays, shard.train).metrics["accuracy"] > 0.9
    assert update.metrics["steps"] == 90
    assert update.warnings == ()


def test_a_layer_that_cannot_be_stacked_is_trained_one_by_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4, 4)).astype(np.float32)
    part = ArraySamples(x, x[:, 0, :3].argmax(1))
    trainer = trainer_of(Recurrent)
    update = trainer.fit(trainer.initial_arrays(0), Shard(part, part), Assignment(training=PRIVATE, seed=0))
    assert all(np.isfinite(array).all() for array in update.arrays.values())


def test_batch_norm_is_refused_in_one_sentence(shard):
    trainer = trainer_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(InputError, match=r"layer 1 \(BatchNorm1d\) mixes the examples"):
        trainer.fit(trainer.initial_arrays(0), shard, Assignment(training=PRIVATE, seed=0))


class Counting(nn.Module):
    """Keeps a running mean of its own, which would go out without noise."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen = self.seen.detach() * 0.9 + x.detach().reshape(-1, 4).mean(0) * 0.1
        return self.layer(x)


def test_a_buffer_that_training_would_change_stays_as_it_was(shard):
    trainer = trainer_of(lambda: Counting(nn.Linear(4, 3)))
    update = trainer.fit(trainer.initial_arrays(0), shard, Assignment(training=PRIVATE, seed=0))
    assert not update.arrays["seen"].any()


def test_a_buffer_that_training_has_changed_is_refused():
    x = np.ones((12, 4, 4), np.float32)
    part = ArraySamples(x, np.arange(12) % 3)
    trainer = trainer_of(lambda: Counting(Recurrent()))
    with pytest.raises(TrainingError, match="the model changes seen, which gets no noise"):
        trainer.fit(trainer.initial_arrays(0), Shard(part, part), Assignment(training=PRIVATE, seed=0))
