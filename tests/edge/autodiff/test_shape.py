"""Operators that move or pick values against torch autograd."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

LAW = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def ints(*numbers):
    return np.array(numbers, np.int64)


@LAW
@given(shape=shapes, data=st.data(), seed=seeds)
def test_reshape_transpose_squeeze(agree, shape, data, seed):
    x = {"x": normal(seed, shape)}
    order = data.draw(st.permutations(range(len(shape))))
    axis = data.draw(st.integers(0, len(shape)))
    agree(lambda x: x.reshape(-1), "Reshape", x, {"shape": ints(-1)})
    agree(lambda x: x.permute(*order), "Transpose", x, perm=list(order))
    agree(lambda x: x.unsqueeze(axis), "Unsqueeze", x, {"axes": ints(axis)})
    agree(lambda x: x.reshape(int(np.prod(shape[:axis], dtype=int)), -1), "Flatten", x, axis=axis)
    one = {"x": normal(seed, [*shape[:axis], 1, *shape[axis:]])}
    agree(lambda x: x.squeeze(axis), "Squeeze", one, {"axes": ints(axis)})


@LAW
@given(shape=shapes, data=st.data(), seed=seeds)
def test_concat_and_split(agree, shape, data, seed):
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = {name: normal(seed, shape) for name in "abc"[: data.draw(st.integers(1, 3))]}
    agree(lambda *p: torch.cat(p, axis), "Concat", parts, axis=axis)
    sizes = [shape[axis], 2]
    whole = {"x": normal(seed, [*shape[:axis], sum(sizes), *shape[axis + 1 :]])}
    agree(lambda x: x.split(sizes, axis)[0], "Split", whole, {"split": ints(*sizes)}, outputs=2, axis=axis)


@LAW
@given(shape=shapes, data=st.data(), seed=seeds)
def test_slices_with_steps_and_from_the_end(agree, shape, data, seed):
    axis = data.draw(st.integers(0, len(shape) - 1))
    size = shape[axis]
    start, step = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, 3))
    end = data.draw(st.integers(start + 1, size + 2))
    x = {"x": normal(seed, shape)}
    places = torch.arange(size)[start:end:step]
    agree(lambda x: x.index_select(axis, places), "Slice", x,
          {"s": ints(start), "e": ints(end), "a": ints(axis), "t": ints(step)})  # fmt: skip
    agree(lambda x: x.flip(axis), "Slice", x,
          {"s": ints(-1), "e": ints(-(1 << 60)), "a": ints(axis), "t": ints(-1)})  # fmt: skip


@LAW
@given(height=st.integers(3, 6), pads=st.lists(st.integers(-1, 2), min_size=4, max_size=4), seed=seeds)
def test_pad(agree, height, pads, seed):
    x = {"x": normal(seed, (2, 3, height, height + 1))}
    left, right, top, bottom = pads
    given_pads = {"pads": ints(0, 0, top, left, 0, 0, bottom, right)}
    agree(lambda x: functional.pad(x, pads), "Pad", x, given_pads)
    positive = [abs(p) for p in pads]
    left, right, top, bottom = positive
    for mode, name in (("reflect", "reflect"), ("edge", "replicate")):
        given_pads = {"pads": ints(0, 0, top, left, 0, 0, bottom, right)}
        agree(lambda x, name=name: functional.pad(x, positive, mode=name), "Pad", x, given_pads, mode=mode)


@LAW
@given(shape=shapes, repeats=st.lists(st.integers(1, 3), min_size=4, max_size=4), seed=seeds)
def test_tile_and_expand(agree, shape, repeats, seed):
    repeats = repeats[: len(shape)]
    agree(lambda x: x.repeat(*repeats), "Tile", {"x": normal(seed, shape)}, {"r": ints(*repeats)})
    ones = [1] * len(shape)
    agree(lambda x: x.expand(2, *shape), "Expand", {"x": normal(seed, ones)}, {"s": ints(2, *shape)})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(agree, mode):
    deep, wide = {"x": normal(0, (2, 12, 3, 4))}, {"x": normal(0, (2, 3, 6, 8))}

    def dcr(x):
        parts = x.reshape(2, 2, 2, 3, 3, 4).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(2, 3, 6, 8)

    def crd(x):
        return functional.pixel_shuffle(x, 2)

    agree(dcr if mode == "DCR" else crd, "DepthToSpace", deep, blocksize=2, mode=mode)
    agree(lambda x: x.reshape(2, 3, 3, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, 12, 3, 4),
          "SpaceToDepth", wide, blocksize=2)  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 10), (3, 3), (4, 7)])
def test_resize(agree, mode, size):
    kind = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}[mode]
    corners = {} if mode == "nearest" else {"align_corners": False}
    coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
    agree(lambda x: functional.interpolate(x, size, mode=mode, **corners), "Resize",
          {"x": normal(0, (2, 3, 4, 5))},
          {"roi": None, "scales": None, "sizes": ints(2, 3, *size)}, mode=kind,
          coordinate_transformation_mode=coordinates, nearest_mode="floor", cubic_coeff_a=-0.75)  # fmt: skip


@LAW
@given(shape=shapes, data=st.data(), seed=seeds)
def test_gather_at_repeated_and_negative_places(agree, shape, data, seed):
    axis = data.draw(st.integers(0, len(shape) - 1))
    size = shape[axis]
    index_shape = data.draw(st.lists(st.integers(1, 3), max_size=2))
    indices = np.random.default_rng(seed).integers(-size, size, index_shape)

    def function(x):
        picked = x.index_select(axis, torch.from_numpy(indices.reshape(-1) % size))
        return picked.reshape((*shape[:axis], *index_shape, *shape[axis + 1 :]))

    agree(function, "Gather", {"x": normal(seed, shape)}, {"i": indices.astype(np.int64)}, axis=axis)


@LAW
@given(shape=shapes, data=st.data(), seed=seeds)
def test_gather_elements_and_nd(agree, shape, data, seed):
    axis = data.draw(st.integers(0, len(shape) - 1))
    wide = [*shape[:axis], 5, *shape[axis + 1 :]]
    indices = np.random.default_rng(seed).integers(0, shape[axis], wide)
    x = {"x": normal(seed, shape)}
    agree(lambda x: x.gather(axis, torch.from_numpy(indices)), "GatherElements", x, {"i": indices}, axis=axis)
    rows = np.random.default_rng(seed).integers(0, shape[0], (4, 1))
    agree(lambda x: x[torch.from_numpy(rows[:, 0])], "GatherND", x, {"i": rows})
