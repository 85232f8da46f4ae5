"""A folder that grows while the device runs is read again, and a half-written file harms nothing."""

import numpy as np
import pytest

from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.starting import make_outfit

TASK = """
from fedloom_client import Data, Task
from fedloom_client.sources import csv, image_folder, split

def data(folder):
    return split(READ, test=0.25)

task = Task(name="sensor", model=None, data=data)
"""


def outfit(tmp_path, folder, read):
    path = tmp_path / "task.py"
    path.write_text(TASK.replace("READ", read))
    return make_outfit(DeviceSettings(task=str(path), data=str(folder)), tmp_path)


def write(folder, name, rows):
    (folder / name).write_text("a,b,label\n" + "".join(f"{i},{i * 2},{i % 2}\n" for i in range(rows)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "monday.csv", 40)
    return tmp_path / "data"


def test_new_files_are_seen_before_the_next_description(tmp_path, folder):
    made = outfit(tmp_path, folder, 'csv(folder, "label")')
    assert (made.hello.examples, made.hello.validation) == (30, 10)
    assert made.node.describe().examples == 30
    write(folder, "tuesday.csv", 40)
    described = made.node.describe()
    assert (described.examples, described.validation) == (60, 20)


def test_what_did_not_change_is_not_read_again(tmp_path, folder):
    made = outfit(tmp_path, folder, 'csv(folder, "label")')
    before = made.node.raw
    made.node.describe()
    assert made.node.raw is before


def test_a_half_written_file_leaves_the_data_as_it_was_until_it_is_whole(tmp_path, folder, caplog):
    made = outfit(tmp_path, folder, 'csv(folder, "label")')
    (folder / "tuesday.csv").write_text("a,b,label\n1,2")
    assert made.node.describe().examples == 30
    assert "the data as it was before is used" in caplog.text
    write(folder, "tuesday.csv", 20)
    assert made.node.describe().examples == 45


def test_a_folder_of_images_is_read_by_the_agent_itself_and_may_grow(tmp_path):
    images = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"

    def photo(kind, number):
        path = folder / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.fromarray(np.full((8, 8), number, np.uint8)).save(path)

    for number in range(8):
        photo("cat" if number % 2 else "dog", number)
    made = outfit(tmp_path, folder, "image_folder(folder, size=(8, 8), gray=True)")
    assert made.node.describe().examples == 6
    x, _ = made.node.raw.train.take(np.arange(6))
    assert x.shape == (6, 1, 8, 8)
    for number in range(8, 12):
        photo("cat", number)
    assert made.node.describe().examples == 9
    (folder / "cat" / "11.png").unlink()
    assert made.node.describe().examples == 8
