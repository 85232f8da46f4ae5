"""Each optimiser takes the step that its definition says, and each loss is the function of its name."""

import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from fedloom_client.torch_trainer.clipping import clip, global_norm
from fedloom_client.torch_trainer.losses import LOSSES
from fedloom_client.torch_trainer.optimisers import Optimiser
from fedloom_client.training import Training
from fedloom_edge.measures import standard_metric
from fedloom_simulations.benchmarks.torch_optimiser import make_optimiser

LR, DECAY, MOMENTUM = 0.1, 0.01, 0.9
GRADIENTS = [0.5, -0.2, 0.3]


def steps_of(optimizer):
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimiser = Optimiser(
        [weight], Training(optimizer=optimizer, lr=LR, weight_decay=DECAY, momentum=MOMENTUM)
    )
    for gradient in GRADIENTS:
        weight.grad = torch.full_like(weight, gradient)
        optimiser.step()
    return float(weight)


def by_hand(optimizer):
    """The same three steps from the definitions (Sutskever et al., 2013; Kingma and Ba, 2015; ...)."""
    w, m, v = 1.0, 0.0, 0.0
    for t, gradient in enumerate(GRADIENTS, start=1):
        g = gradient if optimizer == "adamw" else gradient + DECAY * w
        if optimizer == "sgd":
            w -= LR * g
        elif optimizer in ("momentum", "nesterov"):
            m = MOMENTUM * m + g if t > 1 else g
            w -= LR * (g + MOMENTUM * m if optimizer == "nesterov" else m)
        elif optimizer in ("adam", "adamw"):
            if optimizer == "adamw":
                w -= LR * DECAY * w
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w -= LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            v = 0.99 * v + 0.01 * g * g
            w -= LR * g / (np.sqrt(v) + 1e-8)
    return w


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
def test_three_steps_are_those_of_the_definition(optimizer):
    assert steps_of(optimizer) == pytest.approx(by_hand(optimizer), rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
def test_steps_have_the_bits_of_torchs_own_optimiser(optimizer):
    training = Training(optimizer=optimizer, lr=LR, weight_decay=DECAY, momentum=MOMENTUM)
    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, n)) for n in (7, 40, 3)] for _ in range(2))
    optimisers = Optimiser(ours, training), make_optimiser(theirs, training)
    draw = torch.Generator().manual_seed(1)
    for step in range(4):
        for k, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            # The last takes no part in the first two steps, except where PyTorch's own fails at that.
            late = k == 2 and step < 2 and optimizer not in ("momentum", "nesterov")
            p.grad = None if late else torch.randn(p.shape, generator=draw)
            q.grad = None if p.grad is None else p.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_training_does_not_import_torchs_compiler():
    code = (
        "import sys, torch\n"
        "from fedloom_client.torch_trainer.optimisers import Optimiser\n"
        "from fedloom_client.training import Training\n"
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)\n"
        "Optimiser([p], Training()).step()\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6),
    norm=st.floats(0.01, 10),
    limit=st.floats(0.01, 10),
)
def test_clipping_bounds_the_norm_and_every_value(values, norm, limit):
    gradients = [torch.tensor(values), torch.tensor(values[:1])]
    clip(gradients, global_norm(gradients), Training(clip_norm=norm, clip_value=limit))
    assert global_norm(gradients) <= norm * 1.001
    assert all(float(gradient.abs().max()) <= limit * 1.001 for gradient in gradients)


def test_losses_by_hand():
    logits, classes = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]]), torch.tensor([0, 1])
    assert float(LOSSES["cross_entropy"](logits, classes)) == pytest.approx(
        (np.log(2) + np.log(4 / 3)) / 2, rel=1e-5
    )
    one = torch.tensor([[0.0], [0.0]]), torch.tensor([0.0, 1.0])
    assert float(LOSSES["binary_cross_entropy"](*one)) == pytest.approx(np.log(2), rel=1e-5)
    far = torch.tensor([[0.5], [3.0]]), torch.tensor([[0.0], [0.0]])
    assert float(LOSSES["mse"](*far)) == pytest.approx((0.25 + 9) / 2)
    assert float(LOSSES["huber"](*far)) == pytest.approx((0.125 + 2.5) / 2)


def test_standard_metrics_by_hand():
    assert standard_metric("cross_entropy", np.array([[1, 2], [3, 0]]), np.array([1, 1])) == 0.5
    assert standard_metric("binary_cross_entropy", np.array([[1.0], [-1.0]]), np.array([1.0, 1.0])) == 0.5
    assert standard_metric("huber", np.array([[1.0], [-1.0]]), np.array([0.0, 1.0])) == 1.5
