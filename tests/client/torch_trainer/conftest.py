"""Small tasks and shards for the trainer's tests."""

import numpy as np
import pytest
from torch import nn

from fedloom_client import ArraySamples, Data, Shard, Task, Training
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment

CLASSES = 3


def samples(count=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    return ArraySamples(x, x[:, :CLASSES].argmax(1))


@pytest.fixture
def shard():
    return Shard(samples(50), samples(20, seed=1))


@pytest.fixture
def make():
    """`make(model=..., loss=...)` -> a trainer."""

    def trainer(model=lambda: nn.Linear(4, CLASSES), **parts):
        def data(folder):
            return Data(samples(), samples())

        return TorchTrainer(Task(name="t", model=model, data=data, **parts))

    return trainer


@pytest.fixture
def fit(make, shard):
    """`fit(model, lr=0.1)` -> the update of one round from the same initial arrays."""

    def run(model=lambda: nn.Linear(4, CLASSES), *, on=shard, seed=3, mu=0.0, arrays=None, **settings):
        trainer = make(model)
        training = Training(**{"optimizer": "sgd", "lr": 0.1, "batch_size": 10} | settings)
        start = trainer.initial_arrays(0) if arrays is None else arrays
        return trainer.fit(start, on, Assignment(training=training, seed=seed, proximal_mu=mu))

    return run
