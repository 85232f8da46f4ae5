"""TorchTrainer: the loop, its budget, what travels, and bit-equal repetition."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from fedloom_client import ArraySamples, Shard, Task
from fedloom_client.data.batches import cut
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment
from fedloom_client.training import Training
from fedloom_edge.arrays import arrays_sha256
from fedloom_edge.errors import TrainingError


def deep():
    return nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def test_equal_arguments_give_equal_bits_whatever_ran_before(make, shard):
    trainer = make(deep)
    start = trainer.initial_arrays(0)
    job = Assignment(training=Training(), seed=5)
    first = trainer.fit(start, shard, job)
    trainer.fit(first.arrays, shard, Assignment(training=Training(optimizer="adam"), seed=6))
    torch.manual_seed(99)
    again = trainer.fit(start, shard, job)
    assert arrays_sha256(again.arrays) == arrays_sha256(first.arrays)
    assert again.metrics == first.metrics
    other = trainer.fit(start, shard, Assignment(training=Training(), seed=6))
    assert arrays_sha256(other.arrays) != arrays_sha256(first.arrays)


def test_training_does_not_touch_the_callers_generator_threads_or_arrays(make, shard):
    trainer = make(deep)
    start = trainer.initial_arrays(0)
    for array in start.values():
        array.flags.writeable = False
    before = arrays_sha256(start)
    torch.set_num_threads(2)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    update = trainer.fit(start, shard, Assignment(training=Training(), seed=5))
    trainer.initial_arrays(4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == 2
    assert arrays_sha256(start) == before
    kept = arrays_sha256(update.arrays)
    trainer.fit(start, shard, Assignment(training=Training(), seed=7))
    assert arrays_sha256(update.arrays) == kept


@pytest.mark.parametrize("writeable", [True, False])
def test_samples_in_memory_stay_as_they_are_whatever_a_model_does_to_its_inputs(make, writeable):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    kept = x.copy()
    x.flags.writeable = writeable
    base = ArraySamples(x, np.arange(40) % 3)
    trainer = make(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)))
    start = trainer.initial_arrays(0)
    trainer.fit(start, Shard(base, base), Assignment(training=Training(), seed=1))
    trainer.evaluate(start, base)
    assert np.array_equal(x, kept)


def test_initial_arrays_are_drawn_from_the_seed(make):
    trainer = make(deep)
    assert arrays_sha256(trainer.initial_arrays(1)) == arrays_sha256(trainer.initial_arrays(1))
    assert arrays_sha256(trainer.initial_arrays(1)) != arrays_sha256(trainer.initial_arrays(2))


def test_floating_point_state_travels_and_counters_stay(make, shard):
    trainer = make(deep)
    arrays = trainer.initial_arrays(0)
    assert "1.running_mean" in arrays
    assert "1.num_batches_tracked" not in arrays
    assert trainer.statistics == {"1.running_mean", "1.running_var"}
    update = trainer.fit(arrays, shard, Assignment(training=Training(), seed=0))
    assert list(update.arrays) == list(arrays)
    assert not np.array_equal(update.arrays["1.running_mean"], arrays["1.running_mean"])


@given(count=st.integers(1, 60), size=st.integers(1, 25))
def test_an_epoch_visits_every_sample_once_and_leaves_no_lone_last_one(count, size):
    batches = cut(np.random.default_rng(0).permutation(count), size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert all(len(batch) <= size + 1 for batch in batches)
    if count > 1 and size > 1:
        assert all(len(batch) > 1 for batch in batches)


def test_batch_norm_survives_a_last_batch_of_one(fit):
    assert fit(deep, batch_size=49).metrics["steps"] == 1


@pytest.mark.parametrize(("epochs", "steps", "expected"), [(3, 0, 15), (3, 7, 7), (1, 100, 5), (2, 5, 5)])
def test_a_round_ends_at_epochs_or_steps_whichever_comes_first(fit, epochs, steps, expected):
    assert fit(epochs=epochs, steps=steps).metrics["steps"] == expected


def test_progress_is_told_after_each_epoch(make, shard):
    told = []
    job = Assignment(
        training=Training(epochs=3), seed=0, progress=lambda epoch, loss: told.append((epoch, loss))
    )
    make().fit(make().initial_arrays(0), shard, job)
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert told[-1][1] < told[0][1]


def test_patience_sends_the_best_epoch(make, shard):
    trainer = make(lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)))
    start = trainer.initial_arrays(0)
    rng = np.random.default_rng(0)
    noise = Shard(
        ArraySamples(rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20)), shard.validation
    )
    losses = []
    for epochs in range(1, 9):
        update = trainer.fit(start, noise, Assignment(training=Training(lr=0.2, epochs=epochs), seed=1))
        losses.append(trainer.evaluate(update.arrays, noise.validation).loss)
    best = next(e for e in range(8) if min(losses[e + 1 : e + 4], default=np.inf) >= losses[e])
    stopped = trainer.fit(start, noise, Assignment(training=Training(lr=0.2, epochs=8, patience=3), seed=1))
    sent = trainer.evaluate(stopped.arrays, noise.validation).loss
    assert sent == pytest.approx(min(losses[: best + 1]), rel=1e-5)
    assert stopped.metrics["epochs"] == min(8, best + 1 + 3)


def test_a_huge_proximal_term_holds_the_weights_and_none_lets_them_go(fit, make):
    start = make().initial_arrays(0)
    free, held = (fit(mu=mu, lr=1e-4, epochs=3).arrays for mu in (0.0, 5e3))
    moved = [np.abs(arrays["weight"] - start["weight"]).max() for arrays in (free, held)]
    assert moved[1] < 0.5 * moved[0]


def test_the_proximal_gradient_is_mu_times_the_distance(make, shard):
    """Two full-batch SGD steps by hand: the first has no distance yet, the second has."""
    lr, mu = 0.1, 2.0
    trainer = make()
    start = trainer.initial_arrays(0)
    jobs = [Training(optimizer="sgd", lr=lr, batch_size=50, epochs=epochs) for epochs in (1, 2)]
    one = trainer.fit(start, shard, Assignment(training=jobs[0], seed=0)).arrays
    plain = trainer.fit(one, shard, Assignment(training=jobs[0], seed=0)).arrays
    proximal = trainer.fit(start, shard, Assignment(training=jobs[1], seed=0, proximal_mu=mu)).arrays
    expected = plain["weight"] - lr * mu * (one["weight"] - start["weight"])
    np.testing.assert_allclose(proximal["weight"], expected, atol=1e-6)


def test_evaluation_does_not_depend_on_dropout_batches_or_order(make, shard):
    trainer = make(deep)
    arrays = trainer.initial_arrays(0)
    once, twice = (trainer.evaluate(arrays, shard.train) for _ in range(2))
    assert once == twice
    x, y = shard.train.take(np.arange(50))
    many = ArraySamples(np.tile(x, (30, 1)), np.tile(y, 30))  # several evaluation batches
    assert trainer.evaluate(arrays, many).loss == pytest.approx(once.loss, rel=1e-5)


def test_evaluating_nothing_gives_no_nan(make):
    nothing = ArraySamples(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    result = make().evaluate(make().initial_arrays(0), nothing)
    assert (result.examples, result.loss, result.metrics) == (0, 0.0, {"accuracy": 0.0})


def test_a_tasks_own_metric_stands_after_the_standard_one(make, shard):
    trainer = make(metrics={"share of class 0": lambda outputs, targets: np.mean(outputs.argmax(1) == 0)})
    result = trainer.evaluate(trainer.initial_arrays(0), shard.train)
    assert list(result.metrics) == ["accuracy", "share of class 0"]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {**a, "weight": a["weight"][:2]},
        lambda a: {**a, "weight": a["weight"].astype(np.float64)},
        lambda a: {**a, "extra": a["bias"]},
        lambda a: {"weight": a["weight"]},
    ],
)
def test_arrays_of_another_model_are_refused(make, shard, change):
    trainer = make()
    wrong = change(trainer.initial_arrays(0))
    with pytest.raises(TrainingError, match="do not fit the model"):
        trainer.fit(wrong, shard, Assignment(training=Training(), seed=0))


def test_token_ids_reach_an_embedding_as_integers():
    task = Task(
        name="t",
        model=lambda: nn.Sequential(nn.EmbeddingBag(10, 4), nn.Linear(4, 2)),
        data=lambda folder: None,
    )
    trainer = TorchTrainer(task)
    tokens = ArraySamples(np.arange(20).reshape(10, 2) % 10, np.arange(10) % 2)
    update = trainer.fit(
        trainer.initial_arrays(0), Shard(tokens, tokens), Assignment(training=Training(), seed=0)
    )
    assert update.examples == 10
