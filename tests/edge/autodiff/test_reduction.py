"""Reductions, softmax and normalisations against torch autograd."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fedloom_edge.step_settings import StepSettings

LAW = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
REDUCTIONS = {
    "ReduceSum": lambda x, a, k: x.sum(a, keepdim=k),
    "ReduceMean": lambda x, a, k: x.mean(a, keepdim=k),
    "ReduceMax": lambda x, a, k: x.amax(a, keepdim=k),
    "ReduceMin": lambda x, a, k: x.amin(a, keepdim=k),
    "ReduceSumSquare": lambda x, a, k: (x * x).sum(a, keepdim=k),
    "ReduceL1": lambda x, a, k: x.abs().sum(a, keepdim=k),
    "ReduceL2": lambda x, a, k: torch.linalg.vector_norm(x, dim=a, keepdim=k),
    "ReduceLogSumExp": lambda x, a, k: x.logsumexp(a, keepdim=k),
    "ReduceLogSum": lambda x, a, k: x.sum(a, keepdim=k).log(),
}


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("kind", REDUCTIONS)
@LAW
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data(), keep=st.booleans(), seed=seeds
)
def test_over_any_axes(agree, kind, shape, data, keep, seed):
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    x = normal(seed, shape)
    x = np.abs(x) + 0.1 if kind == "ReduceLogSum" else x
    given_axes = {"axes": np.array(axes, np.int64)}
    agree(lambda x: REDUCTIONS[kind](x, axes, keep), kind, {"x": x}, given_axes, keepdims=int(keep))


def test_product_and_cumulative_sum(agree):
    x = {"x": normal(0, (3, 4)) + 3}
    agree(lambda x: x.prod(1), "ReduceProd", x, {"axes": np.array([1])}, keepdims=0)
    agree(lambda x: x.cumsum(1), "CumSum", x, {"axis": np.array(1)})
    agree(
        lambda x: x.flip(0).cumsum(0).flip(0) - x, "CumSum", x, {"axis": np.array(0)}, reverse=1, exclusive=1
    )


@pytest.mark.parametrize(
    ("kind", "function"), [("Softmax", functional.softmax), ("LogSoftmax", functional.log_softmax)]
)
@LAW
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data(), seed=seeds)
def test_softmax_over_any_axis(agree, kind, function, shape, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    agree(lambda x: function(x, axis), kind, {"x": normal(seed, shape)}, axis=axis)


@LAW
@given(shape=st.lists(st.integers(2, 5), min_size=2, max_size=4), data=st.data(), seed=seeds)
def test_layer_norm(agree, shape, data, seed):
    axis = data.draw(st.integers(1, len(shape) - 1))
    inner = shape[axis:]
    feeds = {"x": normal(seed, shape), "scale": normal(seed + 1, inner), "bias": normal(seed + 2, inner)}
    agree(
        lambda x, s, b: functional.layer_norm(x, inner, s, b, 1e-3),
        "LayerNormalization",
        feeds,
        axis=axis,
        epsilon=1e-3,
    )


@LAW
@given(shape=st.lists(st.integers(3, 5), min_size=3, max_size=5), seed=seeds)
def test_instance_and_batch_norm(agree, shape, seed):
    channels = shape[1]
    feeds = {
        "x": normal(seed, shape),
        "scale": normal(seed + 1, channels),
        "bias": normal(seed + 2, channels),
    }
    agree(
        lambda x, s, b: functional.instance_norm(x, weight=s, bias=b, eps=1e-3),
        "InstanceNormalization",
        feeds,
        epsilon=1e-3,
    )
    running = {"mean": np.full(channels, 0.1, np.float32), "variance": np.full(channels, 2.0, np.float32)}
    mean, variance = (torch.from_numpy(a) for a in running.values())
    agree(lambda x, s, b: functional.batch_norm(x, None, None, s, b, True, eps=1e-3),
          "BatchNormalization", feeds, running,
          epsilon=1e-3)  # fmt: skip
    agree(lambda x, s, b: functional.batch_norm(x, mean, variance, s, b, False, eps=1e-3),
          "BatchNormalization", feeds, running,
          settings=StepSettings(batch_statistics=False), epsilon=1e-3)  # fmt: skip
