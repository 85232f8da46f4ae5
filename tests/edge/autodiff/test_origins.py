"""Graphs of other exporters train: scikit-learn's by skl2onnx, and Keras's own."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from fedloom_edge.autodiff import StepSettings, build_train_step
from fedloom_edge.train_step import TrainStep

KERAS = """
import sys
import keras
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    layers.Input((8, 8, 1)),
    layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(),
    layers.DepthwiseConv2D(3, strides=2, padding="same"), layers.MaxPooling2D(2),
    layers.Flatten(), layers.Dense(16, activation="gelu"), layers.Dense(10),
])
model(keras.ops.zeros((2, 8, 8, 1)))
model.export(sys.argv[1], format="onnx", verbose=False)
"""


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y.astype(np.int64)


def losses(model, x, y, steps=60, batch=64, lr=0.01):
    graph = build_train_step(model, StepSettings(optimizer="adam"), batch=batch)
    step = TrainStep(graph.SerializeToString(), batch=batch)
    step.set_arrays({i.name: numpy_helper.to_array(i) for i in model.graph.initializer})
    draw = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        chosen = draw.integers(0, len(x), batch)
        found.append(step(x[chosen], y[chosen], lr=lr)[0])
    return found, step


def test_a_classifier_of_scikit_learn_trains_as_torch_trains_its_layers():
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier

    x, y = digits()
    fitted = MLPClassifier((32,), max_iter=1, random_state=0)
    with pytest.warns(UserWarning):  # one pass is not meant to converge
        fitted.fit(x, y)
    model = logits(to_onnx(fitted, x[:1], options={"zipmap": False}, target_opset=18))
    ours, step = losses(model, x, y)
    layers = [nn.Linear(64, 32), nn.Linear(32, 10)]
    with torch.no_grad():
        for layer, weight, bias in zip(layers, fitted.coefs_, fitted.intercepts_, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    module = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimiser, draw = torch.optim.Adam(module.parameters(), 0.01), np.random.default_rng(0)
    for loss in ours:
        chosen = draw.integers(0, len(x), 64)
        optimiser.zero_grad()
        theirs = nn.functional.cross_entropy(module(torch.from_numpy(x[chosen])), torch.from_numpy(y[chosen]))
        theirs.backward()
        optimiser.step()
        assert loss == pytest.approx(theirs.item(), rel=1e-3, abs=1e-4)
    assert ours[-1] < 0.5 * ours[0]
    assert {a.shape for a in step.arrays().values()} == {(64, 32), (1, 32), (32, 10), (1, 10)}


def logits(model):
    """A classifier's graph up to its softmax, whose inputs the loss takes."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model = onnx.shape_inference.infer_shapes(model)
    value = next(v for v in model.graph.value_info if v.name == softmax.input[0])
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    wanted, nodes = {softmax.input[0]}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.insert(0, node)
            wanted |= set(node.input)
    for field, values in (("node", nodes), ("output", [value])):
        del getattr(kept.graph, field)[:]
        getattr(kept.graph, field).extend(values)
    used = [i for i in model.graph.initializer if i.name in wanted]
    del kept.graph.initializer[:]
    kept.graph.initializer.extend(used)
    return kept


def test_a_model_of_keras_trains(tmp_path):
    file = tmp_path / "keras.onnx"
    environment = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", KERAS, str(file)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    x, y = digits()
    ours, step = losses(onnx.load(file), x.reshape(-1, 8, 8, 1), y)
    assert np.mean(ours[-10:]) < 0.3 * ours[0]
    assert len(step.signature.parameters) == 9  # a convolution and its batch norm come as one
