"""Arrays keep names, order, dtypes and bits through files, and their hash sees all of it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from fedloom_edge.arrays import arrays_sha256, load_arrays, save_arrays
from fedloom_edge.errors import RunError

named = st.dictionaries(
    st.text("abz.01", min_size=1, max_size=5),
    st.sampled_from(["<f4", "<f8", "<i8", "|u1"]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, max_side=4))
    ),
    min_size=1,
    max_size=4,
)


@given(original=named)
def test_a_file_gives_back_what_was_saved(tmp_path_factory, original):
    path = tmp_path_factory.mktemp("arrays") / "a.safetensors"
    save_arrays(path, original)
    back = load_arrays(path)
    assert list(back) == list(original)
    assert arrays_sha256(back) == arrays_sha256(original)


def test_hash_sees_order_name_shape_dtype_and_sign_of_zero():
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    variants = [
        {"a": a, "b": b},
        {"b": b, "a": a},
        {"a": a, "c": b},
        {"a": a.reshape(1, 2), "b": b},
        {"a": a.astype(np.float64), "b": b},
        {"a": -a, "b": b},
    ]
    assert len({arrays_sha256(variant) for variant in variants}) == len(variants)


def test_hash_does_not_depend_on_memory_layout():
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert arrays_sha256({"a": np.asfortranarray(matrix)}) == arrays_sha256({"a": matrix})
    assert arrays_sha256({"a": matrix.astype(">f4")}) == arrays_sha256({"a": matrix})


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(path, {"a": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunError, match="another checkpoint"):
        load_arrays(path)
