"""npz files as samples, one or a folder of them; what is wrong is named with its file."""

import numpy as np
import pytest

from fedloom_client import sources
from fedloom_edge.errors import DataError

X, Y = np.arange(24, dtype=np.float32).reshape(6, 2, 2), np.arange(6)


def test_a_file_and_the_files_of_a_folder_in_their_order(tmp_path):
    np.savez(tmp_path / "b.npz", x=X[3:], y=Y[3:])
    np.savez(tmp_path / "a.npz", x=X[:3], y=Y[:3])
    x, y = sources.npz(tmp_path).take(np.arange(6))
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    assert len(sources.npz(str(tmp_path / "a.npz"))) == 3


def test_arrays_of_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", images=X, labels=Y)
    assert len(sources.npz(tmp_path / "a.npz", x="images", y="labels")) == 6


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no .npz files"),
        ({"a": {"x": X}}, "a.npz has no array 'y"),
        ({"a": {"x": X, "y": Y[:5]}}, r"one row an example, but have \(6, 2, 2\) and \(5,\)"),
        ({"a": {"x": X, "y": np.array(1)}}, r"one row an example, but have \(6, 2, 2\) and \(\)"),
        ({"a": {"x": X, "y": Y}, "b": {"x": X[:, :1], "y": Y}}, r"b.npz has inputs \(1, 2\)"),
        ({"a": {"x": np.array([object()]), "y": Y[:1]}}, "a.npz cannot be read as npz"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, said):
    for name, arrays in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    with pytest.raises(DataError, match=said):
        sources.npz(tmp_path)


def test_no_path_and_no_file(tmp_path):
    with pytest.raises(DataError, match=r"no \.npz file was given"):
        sources.npz(None)
    with pytest.raises(DataError, match=r"gone\.npz does not exist"):
        sources.npz(tmp_path / "gone.npz")
    (tmp_path / "rotten.npz").write_bytes(b"PK rotten")
    with pytest.raises(DataError, match=r"rotten\.npz cannot be read as npz"):
        sources.npz(tmp_path / "rotten.npz")
