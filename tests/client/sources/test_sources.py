"""Adapters read real files, and say which file, line and column is wrong."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset as HubDataset
from PIL import Image
from torch.utils.data import IterableDataset

from fedloom_client import ArraySamples, sources
from fedloom_edge.errors import DataError, InputError


@pytest.fixture
def write(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def rows(samples):
    return samples.take(np.arange(len(samples)))


def test_numbers_become_features_and_whole_targets_classes(write):
    x, y = rows(sources.csv(write("a,b,y\n1,2.5,0\n3,4,1\n\n5,6,0\n"), target="y"))
    assert x.tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert (y.tolist(), y.dtype) == ([0, 1, 0], np.int64)


def test_words_become_classes_in_alphabetical_order(write):
    samples = sources.csv(write("a,y\n1,old\n2,new\n3,old\n"), target="y")
    assert (samples.y.tolist(), samples.class_names) == ([1, 0, 1], ("new", "old"))


def test_targets_with_fractions_stay_numbers(write):
    assert sources.csv(write("a,y\n1,0.5\n2,1.0\n"), target="y").y.dtype == np.float32
    assert sources.csv(write("a,y\n1,1.0\n2,2.0\n"), target="y").y.dtype == np.float32


def test_chosen_features_and_a_group_column(write):
    samples = sources.csv(
        write("a,junk,who,y\n1,?,x,0\n2,!,z,1\n3,.,x,1\n"), target="y", features=["a"], group="who"
    )
    assert samples.x.tolist() == [[1], [2], [3]]
    assert samples.groups.tolist() == [0, 1, 0]


def test_a_folder_is_all_its_files_each_a_natural_owner(write):
    write("a,y\n1,0\n", "north.csv")
    folder = write("a,y\n2,1\n3,0\n", "south.csv").parent
    samples = sources.csv(folder, target="y", group="file")
    assert samples.groups.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,y\n1,0\nx,1\n", r"t\.csv:3, column 'a': 'x' is no number"),
        ("a,y\n1,0\n,1\n", r"t\.csv:3, column 'a': '' is no number"),
        ("a,y\n1,0\nnan,1\n", r"t\.csv:3, column 'a': 'nan' is not finite"),
        ("a,y\n1,0\n2,inf\n", r"t\.csv:3, column 'y': 'inf' is not finite"),
        ("a,y\n1,old\n2,\n", r"t\.csv:3, column 'y' is empty"),
        ("a,y\n1,0,7\n", r"t\.csv:2 has 3 cells, the header 2"),
        ("a,yy\n1,0\n", r"t\.csv: unknown column 'y': did you mean 'yy'"),
        ("", "is empty"),
        ("a,y\n", "has no rows"),
    ],
)
def test_a_wrong_table_is_refused_with_file_line_and_column(write, text, expected):
    with pytest.raises(DataError, match=expected):
        sources.csv(write(text), target="y")


def test_no_file_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no folder with \.csv files"):
        sources.csv(tmp_path, target="y")


def test_parquet_reads_as_csv_does(tmp_path, write):
    pq.write_table(pa.table({"a": [1.0, 2.0], "y": ["old", "new"]}), tmp_path / "t.parquet")
    from_parquet = sources.parquet(tmp_path, target="y")
    from_csv = sources.csv(write("a,y\n1.0,old\n2.0,new\n"), target="y")
    assert np.array_equal(from_parquet.x, from_csv.x)
    assert (from_parquet.y.tolist(), from_parquet.class_names) == (from_csv.y.tolist(), from_csv.class_names)


def test_parquet_faults_name_file_row_and_column(tmp_path):
    pq.write_table(pa.table({"a": [1.0, None], "y": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet:2, column 'a'"):
        sources.parquet(tmp_path, target="y")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        sources.parquet(tmp_path, target="y")


def test_images_are_decoded_resized_and_scaled(tmp_path):
    for name, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (10, 6), color).save(tmp_path / name / "1.png")
    samples = sources.image_folder(tmp_path, size=(4, 8))
    x, y = rows(samples)
    assert (x.shape, x.dtype, y.tolist(), samples.class_names) == (
        (2, 3, 4, 8),
        np.float32,
        [0, 1],
        ("cat", "dog"),
    )
    assert x[0, :, 0, 0].tolist() == [1, 0, 0]
    assert rows(sources.image_folder(tmp_path, size=(4, 4), gray=True))[0].shape == (2, 1, 4, 4)


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat/1\.png cannot be read as an image"):
        rows(sources.image_folder(tmp_path, size=(4, 4)))


@pytest.mark.parametrize("folders", [[], ["cat"]])
def test_a_folder_without_classes_or_images_is_refused(tmp_path, folders):
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"no folders|no images"):
        sources.image_folder(tmp_path, size=(4, 4))


class Labelled:
    targets = (1, 0)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.full(3, index, np.float32), self.targets[index]


def test_a_torch_dataset_is_fetched_when_needed():
    x, y = rows(sources.torch_dataset(Labelled()))
    assert (x.tolist(), y.tolist()) == ([[0, 0, 0], [1, 1, 1]], [1, 0])


def test_a_dataset_without_length_or_pairs_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield 0

    with pytest.raises(DataError, match="map-style"):
        sources.torch_dataset(Stream())
    with pytest.raises(DataError, match=r"give \(input, target\)"):
        sources.torch_dataset([1, 2])


def test_a_loaded_hugging_face_data_set_of_texts_and_names():
    dataset = HubDataset.from_dict(
        {"text": ["good", "bad", "fine"], "label": ["pos", "neg", "pos"], "who": [7, 7, 8]}
    )
    samples = sources.hub(dataset, group="who")
    x, y = rows(samples)
    assert (x.tolist(), y.tolist(), samples.groups.tolist()) == (
        ["good", "bad", "fine"],
        [1, 0, 1],
        [0, 0, 1],
    )
    assert samples.class_names == ("neg", "pos")


def test_hugging_face_images_become_channels_first(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / name / "1.png")
    samples = sources.hub("imagefolder", data_dir=str(tmp_path))
    x, _ = rows(samples)
    assert (x.shape, x[0, :, 0, 0].tolist(), samples.class_names) == ((2, 3, 4, 5), [1, 0, 0], ("cat", "dog"))


def test_a_hugging_face_data_set_that_is_not_there_or_lacks_a_column_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded"):
        sources.hub("csv", data_files=str(tmp_path / "no.csv"))
    with pytest.raises(DataError, match="did you mean 'label'"):
        sources.hub(HubDataset.from_dict({"text": ["a"], "label": [0]}), target="labl")


def test_a_split_keeps_every_sample_once_and_blocks_whole():
    blocks = np.repeat(np.arange(10), 3)
    samples = ArraySamples(np.arange(30.0).reshape(30, 1), np.zeros(30, np.int64), blocks=blocks)
    data = sources.split(samples, test=0.3)
    train, test = rows(data.train)[0].ravel(), rows(data.test)[0].ravel()
    assert sorted([*train, *test]) == list(range(30))
    assert not set(data.train.blocks) & set(data.test.blocks)
    assert len(test) == 9


def test_an_ordered_split_holds_out_the_latest():
    samples = ArraySamples(np.arange(10.0).reshape(10, 1), np.zeros(10, np.int64))
    data = sources.split(samples, test=0.3, ordered=True)
    assert rows(data.test)[0].ravel().tolist() == [7, 8, 9]
    assert data.ordered


def test_a_split_that_leaves_a_part_empty_is_refused():
    one = ArraySamples(np.zeros((1, 1)), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="too few"):
        sources.split(one)
    with pytest.raises(InputError, match="between 0 and 1"):
        sources.split(one, test=1.5)
