"""Updates as int8: bounded error, no bias, and with error feedback nothing is lost for good."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedloom_edge.codec import BLOCK, LARGEST, decode, encode
from fedloom_edge.errors import DataError

SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=24)
FINITE = st.floats(-(2.0**99), 2.0**99, width=32)
TINY = 128 * float(np.finfo(np.float32).tiny)


@st.composite
def updates(draw):
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=3))
    return {
        f"a{i}": draw(arrays_of.arrays(np.float32, shape, elements=FINITE)) for i, shape in enumerate(shapes)
    }


def bound(array):
    """The scale of each element's block."""
    flat = np.abs(array.reshape(-1).astype(np.float64))
    blocks = np.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK).max(axis=1, initial=0)
    return np.repeat(blocks / LARGEST, BLOCK)[: flat.size].reshape(array.shape)


@given(updates(), st.integers(0, 2**32))
def test_every_element_comes_back_within_its_blocks_scale(update, seed):
    encoded = encode(update, {}, seed)
    back = decode(encoded.arrays)
    assert list(back) == list(update)
    for name, array in update.items():
        assert back[name].dtype == np.float32
        assert back[name].shape == array.shape
        assert (np.abs(back[name].astype(np.float64) - array) <= 1.0001 * bound(array) + TINY).all()


@given(updates(), st.integers(0, 2**32))
def test_what_is_sent_and_what_is_left_make_the_update(update, seed):
    encoded = encode(update, {}, seed)
    back = decode(encoded.arrays)
    for name, array in update.items():
        whole = back[name].astype(np.float64) + encoded.residual[name]
        assert np.allclose(whole, array, rtol=1e-6, atol=1e-6 * np.abs(array).max(initial=0))


@given(updates(), st.integers(0, 2**32))
def test_equal_arguments_give_equal_bits(update, seed):
    one, two = (encode(update, {}, seed).arrays for _ in range(2))
    assert list(one) == list(two)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_rounding_has_no_bias():
    array = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    mean = np.mean([decode(encode({"a": array}, {}, seed).arrays)["a"] for seed in range(2000)], axis=0)
    # A mean of 2,000 draws of a deviation of half a scale at most: five deviations.
    assert (np.abs(mean - array) < 5 * 0.5 * bound(array) / 2000**0.5).all()


def test_with_feedback_the_sum_of_what_was_sent_never_falls_behind_by_more_than_a_step():
    draw = np.random.default_rng(1)
    residual, true, sent = {}, 0.0, 0.0
    for round_ in range(50):
        update = draw.normal(size=(40, 30)).astype(np.float32)
        encoded = encode({"a": update}, residual, round_)
        residual = encoded.residual
        true, sent = true + update.astype(np.float64), sent + decode(encoded.arrays)["a"].astype(np.float64)
        assert np.abs(true - sent).max() < 1.1 * np.abs(update).max() / 100


def test_an_update_has_a_quarter_of_its_bytes():
    update = {"a": np.ones((300, 200), np.float32), "b": np.ones(512, np.float32)}
    whole, small = (sum(a.nbytes for a in part.values()) for part in (update, encode(update, {}, 0).arrays))
    assert small < 0.27 * whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale/a": None}, "scale of array a is missing"),
        ({"scale/a": np.ones(2, np.float32)}, r"float32 \(2,\); float32 \(1,\)"),
        ({"scale/a": np.ones(1)}, "float64"),
        ({"scale/a": np.array([np.nan], np.float32)}, "not finite"),
        ({"scale/a": np.array([-1], np.float32)}, "negative"),
        ({"int8/a": np.ones(4, np.float32)}, "encoded as float32"),
        ({"int8/a": None}, "'scale/a', which belongs to no array"),
        ({"b": np.ones(4, np.float32)}, "'b', which belongs to no array"),
    ],
)
def test_a_garbled_update_is_refused(change, says):
    encoded = encode({"a": np.ones(4, np.float32)}, {}, 0).arrays | change
    with pytest.raises(DataError, match=says):
        decode({name: array for name, array in encoded.items() if array is not None})


@pytest.mark.parametrize(
    ("array", "residual", "says"),
    [
        (np.array([np.inf], np.float32), {}, "not finite"),
        (np.ones(2), {}, "float64"),
        (np.ones(2, np.float32), {"a": np.ones(3, np.float32)}, r"residual of array a is float32 \(3,\)"),
    ],
)
def test_what_cannot_be_encoded_is_refused(array, residual, says):
    with pytest.raises(DataError, match=says):
        encode({"a": array}, residual, 0)
