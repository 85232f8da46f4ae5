"""Codecs: what they keep, how much they send, and that no payload can do harm."""

import sys

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fedloom_edge.codecs import CompressionError, parse_codec
from fedloom_edge.compression import (
    AUTO_CODECS,
    PAYLOAD,
    Compression,
    codec_of_round,
    read_signed,
    settle,
    signed,
)
from fedloom_edge.errors import InputError

CODECS = ["float16", "int8", "topk:0.1", "lowrank:2"]
SHAPES = {"conv": (8, 3, 5, 5), "scale": (8,), "mean": (8,), "head": (10, 72), "scalar": ()}
STATISTICS = frozenset({"mean"})


def model(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: np.float32(scale * rng.standard_normal(shape)) for name, shape in SHAPES.items()}


def moved(origin, delta):
    return {name: origin[name] + delta[name] for name in origin}


def make(codec):
    return Compression(parse_codec(codec), STATISTICS)


@pytest.mark.parametrize("codec", CODECS)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6]))
def test_what_is_sent_and_what_is_kept_are_the_whole_difference(codec, seed, scale):
    origin, delta = model(seed), model(seed + 1, scale)
    trained = moved(origin, delta)
    encoded, memory = make(codec).encode(origin, trained, {}, seed)
    decoded = make(codec).decode(encoded, origin)
    assert list(decoded) == list(origin)
    for name, array in decoded.items():
        assert array.shape == origin[name].shape
        assert array.dtype == np.float32
        whole = array + memory.get(f"residual/{name}", 0)
        tolerance = 1e-5 * (np.abs(trained[name]).max(initial=0) + np.abs(origin[name]).max(initial=0))
        np.testing.assert_allclose(whole, trained[name], rtol=1e-5, atol=tolerance)
    assert np.array_equal(decoded["mean"], trained["mean"])  # measured: sent as it is


@pytest.mark.parametrize("codec", CODECS)
def test_error_feedback_sends_in_the_end_what_one_round_loses(codec):
    origin, delta = model(0), model(1, 0.01)
    total = {name: np.zeros(shape, np.float64) for name, shape in SHAPES.items()}
    memory = {}
    rounds = 60
    for number in range(rounds):
        encoded, memory = make(codec).encode(origin, moved(origin, delta), memory, number)
        for name, array in make(codec).decode(encoded, origin).items():
            total[name] += array - origin[name]
    for name in SHAPES:
        error = np.linalg.norm(total[name] / rounds - (moved(origin, delta)[name] - origin[name]))
        assert error < 0.35 * np.linalg.norm(delta[name]), name


@pytest.mark.parametrize("codec", CODECS)
def test_equal_arguments_give_equal_bytes(codec):
    origin, trained = model(0), model(1)
    first, second = (make(codec).encode(origin, trained, {}, 7)[0][PAYLOAD].tobytes() for _ in range(2))
    assert first == second


@given(seed=st.integers(0, 2**32))
def test_int8_rounds_without_bias(seed):
    origin = {"w": np.zeros(2000, np.float32)}
    trained = {"w": np.full(2000, 0.3, np.float32)}
    trained["w"][0] = 127.0  # a step of the grid is 1
    encoded, _ = make("int8").encode(origin, trained, {}, seed)
    sent = make("int8").decode(encoded, origin)["w"][1:512]
    assert set(np.unique(sent)) <= {0.0, 1.0}
    assert abs(sent.mean() - 0.3) < 0.1


@pytest.mark.parametrize(("codec", "share"), [("float16", 0.51), ("int8", 0.27), ("topk:0.01", 0.04)])
def test_a_codec_sends_no_more_than_it_promises(codec, share):
    rng = np.random.default_rng(0)
    origin = {"w": np.zeros((300, 300), np.float32)}
    trained = {"w": rng.standard_normal((300, 300)).astype(np.float32)}
    encoded, _ = make(codec).encode(origin, trained, {}, 0)
    assert encoded[PAYLOAD].nbytes <= share * trained["w"].nbytes


def test_topk_begins_dense_and_is_what_was_asked_for_from_the_fourth_round_on():
    shares = [parse_codec(codec_of_round("topk:0.01", number)).share for number in range(1, 7)]
    assert shares == [0.25, 0.0625, 0.015625, 0.01, 0.01, 0.01]
    assert codec_of_round("topk:0.5", 1) == "topk:0.5"
    assert codec_of_round("int8", 1) == "int8"
    assert codec_of_round("lowrank:4", 2) == "lowrank:4"


def test_a_matrix_of_low_rank_is_sent_without_loss():
    rng = np.random.default_rng(0)
    origin = {"w": np.zeros((40, 60), np.float32)}
    trained = {"w": np.float32(rng.standard_normal((40, 3)) @ rng.standard_normal((3, 60)))}
    encoded, memory = make("lowrank:3").encode(origin, trained, {}, 0)
    np.testing.assert_allclose(make("lowrank:3").decode(encoded, origin)["w"], trained["w"], atol=1e-4)
    assert encoded[PAYLOAD].nbytes < 4 * 3 * 110
    assert memory["warm/w"].shape == (60, 3)


def payload(content):
    return {PAYLOAD: np.frombuffer(content, np.uint8)}


def packed(size):
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "encoded",
    [
        {},
        {"w": np.zeros(3, np.float32)},
        {PAYLOAD: np.zeros(3, np.float32)},
        {PAYLOAD: np.zeros((3, 3), np.uint8)},
        payload(b""),
        payload(b"no frame at all"),
        payload(packed(10)),
        payload(packed(100_000_000)),  # 10 kB that would become 100 MB
    ],
)
def test_a_payload_that_is_not_this_models_is_refused(codec, encoded):
    with pytest.raises(CompressionError):
        make(codec).decode(encoded, model(0))


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.data())
def test_a_damaged_payload_is_refused_or_gives_arrays_of_the_right_shapes(codec, data):
    origin = model(0)
    encoded, _ = make(codec).encode(origin, model(1), {}, 0)
    content = encoded[PAYLOAD].copy()
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = make(codec).decode({PAYLOAD: content}, origin)
    except CompressionError:
        return
    assert {name: array.shape for name, array in decoded.items()} == SHAPES


def test_topk_refuses_places_outside_the_model_and_twice():
    origin = {"w": np.zeros(100, np.float32)}
    for gaps in ([99, 1], [5, 0], [2**32 - 1, 1]):
        raw = np.array(gaps, "<u4").tobytes() + bytes(4)
        with pytest.raises(CompressionError, match="place"):
            make("topk:0.02").decode(payload(zstandard.ZstdCompressor().compress(raw)), origin)


@pytest.mark.parametrize(
    "text", ["int9", "topk", "topk:0", "topk:1.5", "topk:many", "lowrank:0", "lowrank:x", "int8:3"]
)
def test_an_unknown_codec_is_refused_in_one_line(text):
    with pytest.raises(InputError, match="--compress") as caught:
        parse_codec(text)
    assert "\n" not in str(caught.value)


def test_without_zstandard_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CompressionError, match=r"pip install 'fedloom\[compress\]'"):
        make("int8").encode({"w": np.zeros(3, np.float32)}, {"w": np.ones(3, np.float32)}, {}, 0)


@given(seed=st.integers(0, 2**32), codec=st.sampled_from(AUTO_CODECS))
def test_an_update_that_names_its_codec_is_read_back(seed, codec):
    origin = model(seed)
    encoded, _ = make(codec).encode(origin, moved(origin, model(seed + 1)), {}, seed)
    found, read = read_signed(signed(encoded, codec))
    assert found == codec
    assert np.array_equal(read[PAYLOAD], encoded[PAYLOAD])


@pytest.mark.parametrize("codec", AUTO_CODECS)
def test_what_earlier_rounds_kept_is_sent_when_an_update_goes_as_it_is(codec):
    origin, delta = model(0), model(1, 0.01)
    trained = moved(origin, delta)
    encoded, memory = make(codec).encode(origin, trained, {}, 0)
    first, second = make(codec).decode(encoded, origin), settle(trained, memory)
    for name in SHAPES:
        told = (first[name] - origin[name]) + (second[name] - origin[name])
        np.testing.assert_allclose(told, 2 * (trained[name] - origin[name]), atol=1e-6)
