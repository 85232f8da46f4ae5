"""Noise is normal, follows from its seed where it has one, and from nothing that anybody knows elsewhere."""

import numpy as np
import pytest
from scipy.stats import kstest

from fedloom_client.noise import Noise
from fedloom_client.update_privacy import UpdatePrivacy

NEVER = 1e-9  # the chance that a test of true draws fails


@pytest.mark.parametrize("seed", [7, None])
def test_draws_have_their_distributions(seed):
    noise = Noise(seed)
    assert kstest(noise.normal((101, 99), 2.5).ravel() / 2.5, "norm").pvalue > NEVER
    assert kstest(noise.uniform(10_001), "uniform").pvalue > NEVER


def test_neighbouring_draws_of_the_system_are_independent():
    draws = Noise(None).normal((100_000,), 1.0)
    halves = draws[:50_000], draws[50_000:]  # the two numbers of a Box-Muller pair
    assert abs(np.corrcoef(*halves)[0, 1]) < 7 / np.sqrt(50_000)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 7 / np.sqrt(100_000)


def test_the_same_seed_gives_the_same_and_the_system_never():
    assert np.array_equal(Noise(3).normal((5,), 1.0), Noise(3).normal((5,), 1.0))
    assert not np.array_equal(Noise(None).normal((5,), 1.0), Noise(None).normal((5,), 1.0))


def test_a_client_clips_and_noises_its_update():
    before = {"w": np.ones((200, 200), np.float32)}
    after = {"w": before["w"] + np.float32(1)}  # an update of norm 200
    clipped, was = UpdatePrivacy(clip=2.0).apply(before, after, Noise(1))
    assert was
    assert abs(np.linalg.norm(clipped["w"] - before["w"]) - 2) < 1e-3
    noisy, _ = UpdatePrivacy(clip=2.0, noise=1.5).apply(before, after, Noise(1))
    assert abs((noisy["w"] - clipped["w"]).std() / 3 - 1) < 0.02
    assert noisy["w"].dtype == np.float32
