"""Tables that would be read wrongly in silence are refused with their place."""

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedloom_client import sources
from fedloom_edge.errors import DataError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "t.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,y\n1,2.5\n2,3;5\n3,4.5\n", r"t\.csv:3, column 'y': '3;5' is no number, unlike most"),
        ("a,y\n1,cat\n2,nan\n3,dog\n", r"t\.csv:3, column 'y': 'nan' is a number, unlike most"),
        ("a,a,y\n1,2,0\n3,4,1\n", r"t\.csv: column 'a' stands twice"),
        ("y\n0\n1\n", "no column to predict 'y' from"),
        ("a,yy\n1,old\n", r"t\.csv: unknown column 'y': did you mean 'yy'"),
        ("a,y,who\n1,0,\n2,1,x\n", r"t\.csv:2, column 'who' is empty"),
        (b"a,y\n1,old\n2,\xe9\n", r"t\.csv:3: .*save it as UTF-8"),
    ],
)
def test_a_slip_in_a_table_is_refused(write, text, expected):
    with pytest.raises(DataError, match=expected):
        sources.csv(write(text), target="y", group="who" if isinstance(text, str) and "who" in text else None)


def test_a_number_beyond_32_bits_is_refused_before_it_becomes_infinite(write):
    with warnings.catch_warnings(), pytest.raises(DataError, match=r"t\.csv:2, column 'a': '1e300'"):
        warnings.simplefilter("error")
        sources.csv(write("a,y\n1e300,0\n2,1\n"), target="y")


@pytest.mark.parametrize("source", [sources.csv, sources.parquet])
def test_no_data_folder_is_said(source):
    with pytest.raises(DataError, match="--data DIR"):
        source(None, target="y")


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0]), pa.array([0])], names=["a", "a", "y"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'a' stands twice"):
        sources.parquet(tmp_path, target="y")


def test_rows_are_numbered_across_a_parquet_files_batches(tmp_path):
    columns = {"a": [*range(200_000), None], "y": [0] * 200_001}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=70_000)
    with pytest.raises(DataError, match=r"t\.parquet:200001, column 'a'"):
        sources.parquet(tmp_path, target="y")


def test_features_keep_their_order_and_type(write):
    samples = sources.csv(write("a,b,y\n1,2,0\n3,4,1\n"), target="y", features=["b", "a"])
    assert (samples.x.tolist(), samples.x.dtype) == ([[2, 1], [4, 3]], np.float32)


def test_a_column_of_texts_is_read_as_texts(write):
    samples = sources.csv(write('what,label\n"Good, very",yes\n7,no\n'), "label", texts=True)
    assert samples.x.tolist() == ["Good, very", "7"]
    assert samples.class_names == ("no", "yes")
    with pytest.raises(DataError, match="has 2 columns beside 'label'"):
        sources.csv(write("a,b,label\nx,y,z\n"), "label", texts=True)
    with pytest.raises(DataError, match=r"t\.csv:2, column 'a' is empty"):
        sources.csv(write("a,label\n,z\n"), "label", texts=True)
