"""Convolution and pooling against torch autograd: shapes, strides, pads, groups, dilations."""

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

LAW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
seeds = st.integers(0, 2**32 - 1)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


@st.composite
def windows(draw, largest_pad=2, dilated=True):
    rank = draw(st.integers(1, 3))
    each = {
        "kernel": st.integers(1, 3),
        "stride": st.integers(1, 3),
        "pad": st.integers(0, largest_pad),
        "dilation": st.integers(1, 2 if dilated else 1),
        "extra": st.integers(0, 4),
    }
    return {key: [draw(kind) for _ in range(rank)] for key, kind in each.items()}


def reach(w):
    return [(k - 1) * d + 1 for k, d in zip(w["kernel"], w["dilation"], strict=True)]


def sizes(w):
    return [max(r - 2 * p, 1) + e for r, p, e in zip(reach(w), w["pad"], w["extra"], strict=True)]


@LAW
@given(w=windows(), group=st.integers(1, 3), per=st.tuples(st.integers(1, 2), st.integers(1, 2)),
       batch=st.integers(1, 3), bias=st.booleans(), seed=seeds)  # fmt: skip
def test_conv(agree, w, group, per, batch, bias, seed):
    rank = len(w["kernel"])
    feeds = {
        "x": normal(seed, (batch, group * per[0], *sizes(w))),
        "w": normal(seed + 1, (group * per[1], per[0], *w["kernel"])),
    } | ({"b": normal(seed + 2, group * per[1])} if bias else {})

    def function(x, kernel, b=None):
        return CONV[rank](x, kernel, b, w["stride"], w["pad"], w["dilation"], group)

    agree(
        function, "Conv", feeds, group=group, strides=w["stride"], pads=w["pad"] * 2, dilations=w["dilation"]
    )


@LAW
@given(w=windows(), channels=st.integers(2, 4), size=st.integers(1, 9), batch=st.integers(1, 3),
       bias=st.booleans(), seed=seeds)  # fmt: skip
def test_depthwise_conv_of_small_and_of_larger_maps(agree, w, channels, size, batch, bias, seed):
    """Up to 36 places to 36 it is a matrix a channel, and else a convolution."""
    rank = len(w["kernel"])
    wide = [max(s, min(size, 4 if rank == 3 else 9)) for s in sizes(w)]
    feeds = {
        "x": normal(seed, (batch, channels, *wide)),
        "w": normal(seed + 1, (channels, 1, *w["kernel"])),
    } | ({"b": normal(seed + 2, channels)} if bias else {})

    def function(x, kernel, b=None):
        return CONV[rank](x, kernel, b, w["stride"], w["pad"], w["dilation"], channels)

    moves = {"strides": w["stride"], "pads": w["pad"] * 2, "dilations": w["dilation"]}
    agree(function, "Conv", feeds, group=channels, **moves)


@LAW
@given(w=windows(), group=st.integers(1, 2), per=st.tuples(st.integers(1, 2), st.integers(1, 2)),
       batch=st.integers(1, 2), tail=st.integers(0, 2), seed=seeds)  # fmt: skip
def test_conv_transpose(agree, w, group, per, batch, tail, seed):
    rank = len(w["kernel"])
    tails = [min(tail, s - 1) for s in w["stride"]]
    source = [1 + e for e in w["extra"]]
    result = [
        (i - 1) * s + r - 2 * p + t
        for i, s, r, p, t in zip(source, w["stride"], reach(w), w["pad"], tails, strict=True)
    ]
    assume(min(result) > 0)
    feeds = {
        "x": normal(seed, (batch, group * per[0], *source)),
        "w": normal(seed + 1, (group * per[0], per[1], *w["kernel"])),
        "b": normal(seed + 2, group * per[1]),
    }

    def function(x, kernel, b):
        return TRANSPOSED[rank](x, kernel, b, w["stride"], w["pad"], tails, group, w["dilation"])

    agree(
        function, "ConvTranspose", feeds, group=group, strides=w["stride"], pads=w["pad"] * 2,
        dilations=w["dilation"], output_padding=tails,
    )  # fmt: skip


@LAW
@given(w=windows(largest_pad=0), batch=st.integers(1, 2), seed=seeds)
def test_max_pool(agree, w, batch, seed):
    rank = len(w["kernel"])
    x = normal(seed, (batch, 2, *sizes(w)))

    def function(x):
        return MAX[rank](x, w["kernel"], w["stride"], 0, w["dilation"])

    agree(
        function, "MaxPool", {"x": x}, kernel_shape=w["kernel"], strides=w["stride"], dilations=w["dilation"]
    )


def test_max_pool_gives_the_first_of_equals_everything(agree):
    agree(lambda x: functional.max_pool2d(x, 3, 2, 1), "MaxPool", {"x": np.zeros((2, 3, 6, 7))},
          kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])  # fmt: skip


@LAW
@given(w=windows(largest_pad=1, dilated=False), include=st.booleans(), batch=st.integers(1, 2), seed=seeds)
def test_average_pool(agree, w, include, batch, seed):
    assume(all(2 * p <= k for p, k in zip(w["pad"], w["kernel"], strict=True)))
    assume(all(s >= k for s, k in zip(sizes(w), w["kernel"], strict=True)))
    rank = len(w["kernel"])

    def function(x):
        return AVERAGE[rank](x, w["kernel"], w["stride"], w["pad"], count_include_pad=include)

    agree(function, "AveragePool", {"x": normal(seed, (batch, 2, *sizes(w)))}, kernel_shape=w["kernel"],
          strides=w["stride"], pads=w["pad"] * 2, count_include_pad=int(include))  # fmt: skip


@LAW
@given(shape=st.lists(st.integers(1, 5), min_size=3, max_size=5), seed=seeds)
def test_global_pooling(agree, shape, seed):
    axes = list(range(2, len(shape)))
    agree(lambda x: x.mean(axes, keepdim=True), "GlobalAveragePool", {"x": normal(seed, shape)})
    agree(lambda x: x.amax(axes, keepdim=True), "GlobalMaxPool", {"x": normal(seed, shape)})
