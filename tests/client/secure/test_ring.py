"""Updates in the ring: the sum of vectors is the weighted mean of updates, and never wraps around."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_client.secure.ring import Ring
from fedloom_edge.errors import TrainingError

ORIGIN = {"w": np.linspace(-1, 1, 40, dtype=np.float32).reshape(8, 5), "b": np.float32(0.5).reshape(())}


def ring(clients, *, clip=10.0, heaviest=100, statistics=frozenset(), origin=ORIGIN):
    return Ring(origin=origin, statistics=statistics, clip=clip, heaviest=heaviest, clients=clients)


def moved(seed, size=1.0, origin=ORIGIN):
    rng = np.random.default_rng(seed)
    return {n: (a + size * rng.normal(size=a.shape)).astype(a.dtype) for n, a in origin.items()}


def summed(how, updates):
    total = np.zeros(how.size, np.uint32)
    for seed, (arrays, examples, loss) in enumerate(updates):
        total += how.encode(arrays, examples, loss, seed)
    return how.decode(total)


@given(weights=st.lists(st.integers(1, 100), min_size=1, max_size=30), seed=st.integers(0, 1000))
def test_a_sum_is_the_weighted_mean_within_the_rounding(weights, seed):
    how = ring(len(weights), clip=20.0)
    updates = [(moved(seed + k), weight, 0.1 * k) for k, weight in enumerate(weights)]
    total = summed(how, updates)
    unit = how.clip * how.heaviest / how.steps / sum(weights)  # of one client's rounding in the mean
    for name in ORIGIN:
        exact = sum(w * a[name].astype(np.float64) for a, w, _ in updates) / sum(weights)
        assert np.abs(total.arrays[name] - exact).max() <= len(weights) * unit + 1e-6
        assert total.arrays[name].dtype == np.float32
        assert total.arrays[name].shape == ORIGIN[name].shape
    assert total.examples == sum(weights)
    assert total.loss == pytest.approx(sum(w * loss for _, w, loss in updates) / sum(weights), abs=1e-5)
    assert total.clipped == 0


@pytest.mark.parametrize("clients", [1, 2, 3, 1000, 65536])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_of_the_largest_updates_does_not_wrap_around(clients, sign):
    origin = {"w": np.zeros(1, np.float32)}
    how = ring(clients, clip=1.0, heaviest=2**32, origin=origin)
    vector = how.encode({"w": np.full(1, sign * 5.0, np.float32)}, 2**32, -7.0, 3)
    whole = vector[:1].view(np.int32).astype(np.int64)[0] * clients
    assert abs(whole) < 2**31
    total = how.decode(vector * np.uint32(clients))
    assert total.arrays["w"][0] == pytest.approx(sign, rel=1e-4)
    assert (total.examples, total.loss, total.clipped) == (clients * 2**32, pytest.approx(-7.0), clients)


def test_rounding_is_unbiased_and_depends_on_the_seed_alone():
    origin = {"w": np.zeros(20_000, np.float32)}
    how = ring(65536, clip=1000.0, heaviest=1, origin=origin)
    update = {"w": np.full(20_000, 1000.0 / how.steps * 0.3, np.float32)}
    vectors = [how.encode(update, 1, 0.0, seed) for seed in (1, 1, 2)]
    assert (vectors[0] == vectors[1]).all()
    assert (vectors[0] != vectors[2]).any()
    assert vectors[0][:20_000].mean() == pytest.approx(0.3, abs=0.02)


def test_an_update_is_clipped_to_the_norm_and_says_so_in_the_sum_alone():
    how = ring(2, clip=1.0)
    wild, tame = moved(1, 5.0), {n: a + np.float32(0.01) for n, a in ORIGIN.items()}
    total = summed(how, [(wild, 10, 0.0), (wild, 10, 0.0)])
    norm = np.sqrt(sum(np.square(total.arrays[n] - a, dtype=np.float64).sum() for n, a in ORIGIN.items()))
    assert norm == pytest.approx(1.0, abs=1e-4)
    assert total.clipped == 2
    assert summed(how, [(wild, 10, 0.0), (tame, 10, 0.0)]).clipped == 1


def test_statistics_are_not_clipped_with_the_rest():
    origin = {**ORIGIN, "running_var": np.ones(3, np.float32)}
    how = ring(1, clip=1.0, statistics=frozenset({"running_var"}), origin=origin)
    update = {**ORIGIN, "running_var": np.array([9.0, 2.0, 500.0], np.float32)}
    total = summed(how, [(update, 10, 0.0)])
    assert total.arrays["running_var"] == pytest.approx([9.0, 2.0, 17.0], abs=1e-4)
    assert total.arrays["w"] == pytest.approx(ORIGIN["w"], abs=1e-5)
    assert total.clipped == 0


def test_clients_weigh_alike_where_one_example_counts():
    how = ring(2, heaviest=1)
    total = summed(how, [(moved(1), 10, 1.0), (moved(2), 90, 3.0)])
    assert total.arrays["w"] == pytest.approx((moved(1)["w"] + moved(2)["w"]) / 2, abs=1e-5)
    assert (total.examples, total.loss) == (2, pytest.approx(2.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w", "running_var"])
def test_an_update_that_is_not_finite_stays_at_the_client(bad, name):
    origin = {**ORIGIN, "running_var": np.ones(3, np.float32)}
    update = {n: a.copy() for n, a in origin.items()}
    update[name].reshape(-1)[1] = bad
    with pytest.raises(TrainingError, match="not finite"):
        ring(2, statistics=frozenset({"running_var"}), origin=origin).encode(update, 1, 0.0, 0)
    with pytest.raises(TrainingError, match="not finite"):
        ring(2).encode(ORIGIN, 1, bad, 0)


def test_a_sum_that_nobody_can_have_sent_is_found_out():
    how = ring(2)
    with pytest.raises(ValueError, match="examples"):
        how.decode(np.zeros(how.size, np.uint32))
    with pytest.raises(ValueError, match="examples"):
        how.decode(np.full(how.size, 0xFFFF, np.uint32))
