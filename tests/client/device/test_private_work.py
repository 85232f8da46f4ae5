"""On a device noise is the operating system's: the same work twice gives two different updates."""

import math

import numpy as np
import pytest
from torch import nn

from fedloom_client.data.samples import ArraySamples, Shard
from fedloom_client.device.memory import Memory
from fedloom_client.device.node_worker import NodeWorker
from fedloom_client.device.workshop import Watch
from fedloom_client.node import Node
from fedloom_client.task import Task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.training import Training
from fedloom_client.update_privacy import UpdatePrivacy
from fedloom_client.wire import settings
from fedloom_protos.v1 import link_pb2 as pb

PLAIN = Training(optimizer="sgd", lr=0.1, batch_size=8)
PRIVATE = Training(**{**vars(PLAIN), "dp_noise": 1.0, "dp_clip": 1.0})


@pytest.fixture
def worker(tmp_path):
    task = Task(name="t", clients=1, model=lambda: nn.Linear(4, 3), data=None)
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    part = ArraySamples(x, x[:, :3].argmax(1))
    return NodeWorker(Node(task, Shard(part, part), TorchTrainer(task)), Memory(tmp_path))


@pytest.mark.parametrize(
    ("training", "asked", "same"),
    [
        (PLAIN, None, True),
        (PLAIN, UpdatePrivacy(clip=0.1), True),
        (PLAIN, UpdatePrivacy(clip=0.1, noise=1.0), False),
        (PRIVATE, None, False),
    ],
)
def test_noise_of_a_device_is_never_the_same(worker, training, asked, same):
    given = {**training.to_config(), **(asked.to_config() if asked else {})}
    work = pb.Work(id="w", kind=pb.KIND_TRAIN, round=1, seed=7, settings=settings(given))
    arrays = {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(3, np.float32)}
    watch = Watch(math.inf, lambda: False, lambda epoch, loss: None)
    (_, first), (_, second) = (worker.do(work, arrays, {}, watch) for _ in range(2))
    assert np.array_equal(first["weight"], second["weight"]) == same
    if asked and not asked.noise:
        norm = math.hypot(*(np.linalg.norm(array) for array in first.values()))
        assert math.isclose(norm, 0.1, rel_tol=1e-4)
