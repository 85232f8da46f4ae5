"""Hugging Face data: nothing is reported to anybody, gaps are named, any image mode has its channels."""

import socket

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from fedloom_client import sources
from fedloom_edge.errors import DataError


def test_reading_a_local_file_asks_no_server(tmp_path, monkeypatch):
    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "t.csv").write_text("a,label\n1,0\n2,1\n")
    samples = sources.hub("csv", data_files=str(tmp_path / "t.csv"))
    assert samples.y.tolist() == [0, 1]
    assert asked == []


def test_an_empty_cell_names_row_and_column():
    with pytest.raises(DataError, match="row 1, column 'label' is empty"):
        sources.hub(Dataset.from_dict({"x": [1.0, 2.0], "label": [0, None]}))


def test_a_data_set_with_nothing_but_targets_is_refused():
    with pytest.raises(DataError, match="no column is left"):
        sources.hub(Dataset.from_dict({"label": [0, 1]}))


@pytest.mark.parametrize(
    ("mode", "shape"), [("L", (1, 4, 5)), ("RGB", (3, 4, 5)), ("RGBA", (3, 4, 5)), ("P", (3, 4, 5))]
)
def test_images_have_one_channel_or_three(mode, shape):
    dataset = Dataset.from_dict({"image": [Image.new(mode, (5, 4))], "label": [0]})
    x, _ = sources.hub(dataset).take(np.array([0]))
    assert (x.shape, x.dtype) == ((1, *shape), np.float32)
