"""The exact mean: any order, any grouping, the same bits; and right."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedloom_server.strategies.exact_mean import ExactMean

SIZE = 5
FLOATS = st.one_of(
    st.floats(-2, 2, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([0.0, -0.0, 1e-42, 3.4e38, -3.4e38, 2.0**-20, 0.1]),
)
VECTORS = arrays(np.float32, SIZE, elements=FLOATS)
UPDATES = st.lists(st.tuples(VECTORS, st.integers(1, 10**9)), min_size=1, max_size=12)


def mean_of(reference, updates, largest=500):
    mean = ExactMean({"w": reference}, largest)
    for array, weight in updates:
        mean.add({"w": array}, weight)
    return mean


def bits(mean):
    return mean.mean()["w"].tobytes()


@given(VECTORS, UPDATES, st.randoms())
def test_the_order_does_not_change_a_bit(reference, updates, random):
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert bits(mean_of(reference, updates)) == bits(mean_of(reference, shuffled))


@given(VECTORS, UPDATES)
def test_a_stack_is_the_same_as_one_by_one(reference, updates):
    stacked = ExactMean({"w": reference}, 500)
    stacked.add_stack({"w": np.stack([array for array, _ in updates])}, [weight for _, weight in updates])
    assert bits(stacked) == bits(mean_of(reference, updates))


@given(VECTORS, UPDATES, UPDATES)
def test_a_sum_that_was_kept_and_read_back_goes_on_as_if_it_had_not_been(reference, first, second):
    kept = ExactMean({"w": reference}, 500)
    kept.restore(mean_of(reference, first).state())
    for array, weight in second:
        kept.add({"w": array}, weight)
    whole = mean_of(reference, [*first, *second])
    assert bits(kept) == bits(whole)
    assert {name: array.tobytes() for name, array in kept.state().items()} == {
        name: array.tobytes() for name, array in mean_of(reference, [*second, *first]).state().items()
    }


@given(VECTORS, UPDATES)
def test_terms_are_rounded_once_to_the_grid_and_then_summed_in_whole_numbers(reference, updates):
    mean = mean_of(reference, updates)
    unit = Fraction(mean._sums["w"].unit)
    total = [0] * SIZE
    for array, weight in updates:
        term = (array.astype(np.float64) - reference.astype(np.float64)) * float(weight)
        # round() of a Fraction goes to the nearest, ties to even, in exact arithmetic.
        total = [old + round(Fraction(value) / unit) for old, value in zip(total, term.tolist(), strict=True)]
    digits = mean._sums["w"].digits()
    found = [sum(int(limb[i]) << (40 * j) for j, limb in enumerate(digits)) for i in range(SIZE)]
    assert found == total


def test_ordinary_updates_give_the_correctly_rounded_mean():
    rng = np.random.default_rng(3)
    reference = rng.normal(size=2000).astype(np.float32)
    updates = [
        (reference + rng.normal(0, 0.1, 2000).astype(np.float32), int(rng.integers(1, 500)))
        for _ in range(300)
    ]
    exact = [Fraction(0)] * 2000
    for array, weight in updates:
        exact = [old + weight * Fraction(float(x)) for old, x in zip(exact, array, strict=True)]
    total = sum(weight for _, weight in updates)
    expected = np.array([float(value / total) for value in exact]).astype(np.float32)
    assert np.array_equal(mean_of(reference, updates).mean()["w"], expected)


@given(VECTORS, st.integers(1, 10**9), st.integers(1, 6))
def test_what_no_client_changed_stays_as_it_is(reference, weight, clients):
    assert np.array_equal(mean_of(reference, [(reference, weight)] * clients).mean()["w"], reference)


@settings(max_examples=20)
@given(arrays(np.float32, SIZE, elements=st.floats(-4, 4, width=16)), st.integers(1, 400))
def test_the_mean_of_one_is_that_one(array, weight):
    reference = np.ones(SIZE, np.float32)
    assert np.array_equal(mean_of(reference, [(array, weight)]).mean()["w"], array)


def test_thousands_of_the_largest_terms_carry_and_do_not_overflow():
    reference = np.ones(3, np.float32)
    largest = np.array([7.9, -7.9, 0.1], np.float32)
    mean = ExactMean({"w": reference}, 1)
    for _ in range(9):
        mean.add_stack({"w": np.tile(largest, (1000, 1))}, [1] * 1000)
    assert np.array_equal(mean.mean()["w"], largest)


def test_shapes_dtypes_names_and_order_are_the_references():
    reference = {
        "b": np.zeros((2, 3), np.float32),
        "a": np.zeros((), np.float64),
        "empty": np.zeros((0, 4), np.float32),
        "half": np.zeros(3, np.float16),
    }
    mean = ExactMean(reference, 10)
    for value, weight in ((1.0, 1), (4.0, 2)):
        mean.add({name: np.full_like(array, value) for name, array in reference.items()}, weight)
    found = mean.mean()
    assert [(name, array.shape, array.dtype) for name, array in found.items()] == [
        (name, array.shape, array.dtype) for name, array in reference.items()
    ]
    assert all((array == 3.0).all() for array in found.values())
    assert (mean.weight, mean.count) == (3, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_summed_is_refused_and_leaves_no_trace(value):
    reference = {"w": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    mean = ExactMean(reference, 10)
    mean.add(reference, 5)
    before = mean.state()
    with pytest.raises(ValueError, match="'b' has values that are not finite"):
        mean.add({"w": np.zeros(3, np.float32), "b": np.array([1, value, 1], np.float32)}, 1)
    with pytest.raises(ValueError, match="positive"):
        mean.add(reference, 0)
    assert {k: v.tobytes() for k, v in mean.state().items()} == {k: v.tobytes() for k, v in before.items()}


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no updates"):
        ExactMean({"w": np.ones(3, np.float32)}, 1).mean()
