"""Fashion-MNIST is read from idx files, gzipped or plain; what is missing or broken is said."""

import gzip

import numpy as np
import pytest

from fedloom_client.loading import load_data, load_task
from fedloom_client.tasks.fashion import DEBIAN
from fedloom_edge.errors import DataError


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Six training images and two test images of random pixels, as idx files."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 2)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_files_of_a_folder_are_read_gzipped_or_plain(folder):
    data = load_data(load_task("fashion"), folder)
    x, y = data.train.take(np.arange(6))
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert np.array_equal((x * 255).round().astype(np.uint8).ravel(), np.frombuffer(raw, np.uint8))
    assert (x.shape, y.tolist(), len(data.test)) == ((6, 1, 28, 28), [0, 1, 2, 3, 4, 5], 2)


def test_a_missing_file_comes_with_the_ways_to_get_it(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte.* apt install dataset-fashion-mnist.*--data"
    ):
        load_data(load_task("fashion"), folder)


@pytest.mark.parametrize("content", [b"", b"no idx file", idx(np.zeros((6,), np.uint8))[:-1]])
def test_a_broken_file_is_named(folder, content):
    (folder / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.*no complete idx file"):
        load_data(load_task("fashion"), folder)


def test_a_torn_archive_is_named(folder):
    archive = folder / "train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*no complete idx file"):
        load_data(load_task("fashion"), folder)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_package_holds_all_seventy_thousand():
    data = load_data(load_task("fashion"), None)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
