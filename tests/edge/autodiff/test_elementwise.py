"""Every elementwise rule against torch autograd, over random shapes that broadcast."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

LAW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def broadcast_pairs(draw):
    """Two shapes that broadcast to one another in both directions."""
    full = draw(shapes)
    sides = [[draw(st.sampled_from([1, size])) for size in full] for _ in range(2)]
    cut = draw(st.integers(0, len(full)))
    sides[draw(st.integers(0, 1))] = full[cut:] if cut < len(full) else full
    return sides


def normal(seed, shape, low=None):
    values = np.random.default_rng(seed).normal(size=shape)
    return values if low is None else np.abs(values) + low


UNARY = {
    "Neg": torch.neg, "Abs": torch.abs, "Identity": lambda x: x * 1, "Exp": torch.exp, "Sin": torch.sin,
    "Cos": torch.cos, "Erf": torch.erf, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Relu": torch.relu,
    "Softplus": functional.softplus, "Softsign": functional.softsign, "HardSwish": functional.hardswish,
    "Mish": functional.mish,
    "Gelu": functional.gelu, "Elu": functional.elu, "Selu": functional.selu, "Celu": functional.celu,
    "LeakyRelu": functional.leaky_relu, "HardSigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "ThresholdedRelu": lambda x: functional.threshold(x, 1.0, 0.0),
}  # fmt: skip
POSITIVE = {"Log": torch.log, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal}
BINARY = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Max": torch.maximum, "Min": torch.minimum}


@pytest.mark.parametrize("kind", UNARY)
@LAW
@given(shape=shapes, seed=seeds)
def test_of_one_input(agree, kind, shape, seed):
    agree(UNARY[kind], kind, {"x": 2 * normal(seed, shape)})


@pytest.mark.parametrize("kind", POSITIVE)
@LAW
@given(shape=shapes, seed=seeds)
def test_of_one_positive_input(agree, kind, shape, seed):
    agree(POSITIVE[kind], kind, {"x": normal(seed, shape, low=0.1)})


@pytest.mark.parametrize("kind", BINARY)
@LAW
@given(pair=broadcast_pairs(), seed=seeds)
def test_of_two_inputs_that_broadcast(agree, kind, pair, seed):
    agree(BINARY[kind], kind, {"a": normal(seed, pair[0]), "b": normal(seed + 1, pair[1])})


@LAW
@given(pair=broadcast_pairs(), seed=seeds)
def test_division_and_power(agree, pair, seed):
    a, b = normal(seed, pair[0], low=0.3), normal(seed + 1, pair[1], low=0.3)
    agree(torch.div, "Div", {"a": a, "b": b})
    agree(torch.pow, "Pow", {"a": a, "b": b})


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, np.int64(2), np.int64(3)])
def test_power_with_a_constant_exponent(agree, exponent):
    constant = {"e": np.asarray(exponent, None if isinstance(exponent, np.int64) else np.float32)}
    agree(lambda a: a ** float(exponent), "Pow", {"a": normal(1, (3, 4), low=0.1)}, constant)


@LAW
@given(pair=broadcast_pairs(), seed=seeds)
def test_where_with_a_mask(agree, pair, seed):
    mask = normal(seed + 2, pair[0]) > 0
    feeds = {"a": normal(seed, pair[0]), "b": normal(seed + 1, pair[1])}
    agree(lambda a, b: torch.where(torch.from_numpy(mask), a, b), "Where", feeds, {"mask": mask}, first=True)


@LAW
@given(shape=shapes, seed=seeds)
def test_clip_prelu_and_sums_of_many(agree, shape, seed):
    x, slope = normal(seed, shape), normal(seed + 1, shape[-1:])
    bounds = {"low": np.float32(-0.5), "high": np.float32(0.7)}
    agree(lambda x: torch.clamp(x, -0.5, 0.7), "Clip", {"x": x}, bounds)
    ends = {"low": np.float32(0), "high": np.float32(6)}
    agree(functional.relu6, "Clip", {"x": np.append(4 * x.ravel(), [0, 6])}, ends)
    agree(lambda x: torch.clamp(x, max=0.7), "Clip", {"x": x}, {"low": None, "high": np.float32(0.7)})
    agree(lambda x, s: torch.where(x > 0, x, s * x), "PRelu", {"x": x, "s": slope})
    many = {"a": x, "b": slope, "c": x + 1}
    agree(lambda a, b, c: a + b + c, "Sum", many)
    agree(lambda a, b, c: (a + b + c) / 3, "Mean", many)


def test_the_tanh_form_of_gelu(agree):
    agree(
        lambda x: functional.gelu(x, approximate="tanh"), "Gelu", {"x": normal(0, (5, 6))}, approximate="tanh"
    )


def test_shared_between_equals_as_torch_does(agree):
    agree(torch.maximum, "Max", {"a": [1.0, 2.0, 3.0], "b": [1.0, 3.0, 3.0]})
