"""Gradients that vanish or explode show: a norm in the metrics, and a warning that names the layer."""

import numpy as np
import pytest
from torch import nn

from fedloom_client import ArraySamples, Shard
from fedloom_edge.errors import TrainingError


def stack(scale, depth=8):
    """Sigmoid layers whose gradient shrinks (or, with a large first layer, grows) towards the input."""

    def model():
        layers = []
        for _ in range(depth):
            layers += [nn.Linear(4, 4), nn.Sigmoid()]
        net = nn.Sequential(*layers, nn.Linear(4, 3))
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=scale)
        return net

    return model


def test_a_healthy_model_gives_a_norm_and_no_warning(fit):
    update = fit()
    assert 0 < update.metrics["gradient-norm"] <= update.metrics["gradient-norm-max"]
    assert update.warnings == ()


def test_the_norm_is_that_before_clipping(fit):
    plain, clipped = fit(steps=1), fit(steps=1, clip_norm=1e-3)
    assert clipped.metrics["gradient-norm"] == plain.metrics["gradient-norm"]


def test_vanishing_gradients_name_the_layer_next_to_the_input(fit):
    (warning,) = fit(stack(0.1)).warnings
    assert "vanish in layer 0.weight" in warning


def test_exploding_gradients_name_their_layer(fit):
    def model():
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
        nn.init.constant_(net[0].weight, 1e-4)
        nn.init.normal_(net[1].weight, std=1e4)
        return net

    (warning,) = fit(model, lr=1e-12).warnings
    assert "explode in layer 0.weight" in warning
    assert "clip_norm" in warning


def test_a_loss_that_is_not_finite_stops_and_says_where(fit):
    x = np.full((20, 4), 1e38, np.float32)
    shard = Shard(ArraySamples(x, np.arange(20) % 3), ArraySamples(x, np.arange(20) % 3))
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in epoch 1, step \d+.*lower training.lr"):
        fit(on=shard, lr=1e3, epochs=5)
