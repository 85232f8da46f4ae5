"""Tasks are found by name or file; what a user's own code raises is shown with its line."""

import sys

import pytest

from fedloom_client.loading import BUILT_IN, load_data, load_task
from fedloom_edge.errors import InputError

GOOD = """
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Data, Task
samples = ArraySamples(np.zeros((4, 2), np.float32), np.zeros(4, np.int64))
task = Task(name="one", model=lambda: nn.Linear(2, 2), data=lambda folder: Data(samples, samples))
other = Task(name="two", model=lambda: nn.Linear(2, 2), data=lambda folder: Data(samples, samples))
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "my_task.py"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_task_is_found_under_its_own_name(name):
    assert load_task(name).name == name


def test_a_file_has_its_task_and_others_by_name(file):
    path = file(GOOD)
    assert load_task(path).name == "one"
    assert load_task(f"{path}:other").name == "two"


def test_a_file_may_import_its_neighbours(file, tmp_path):
    (tmp_path / "my_layers.py").write_text("width = 2\n")
    assert load_task(file(f"from my_layers import width\n{GOOD}")).name == "one"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = 1 / 0\n", "my_task.py:2: ZeroDivisionError: division by zero"),
        ("x = (\n", "my_task.py:1: '(' was never closed"),
        ("import no_such_module\n", "my_task.py:1: ModuleNotFoundError"),
        ("def f():\n    raise KeyError('k')\nf()\n", "my_task.py:2: KeyError"),
        ("x = 1\n", "has no task"),
        ("import sys\nsys.exit(3)\n", "my_task.py:2: SystemExit: 3"),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_a_file_that_fails_is_refused_with_its_own_line(file, text, expected):
    with pytest.raises(InputError) as caught:
        load_task(file(text))
    assert expected in str(caught.value)


def test_a_name_that_is_not_there_is_refused_with_the_nearest(file):
    with pytest.raises(InputError, match="did you mean 'other'"):
        load_task(f"{file(GOOD)}:othr")
    with pytest.raises(InputError, match="did you mean 'sentiment'"):
        load_task("sentimnt")
    with pytest.raises(InputError, match="does not exist"):
        load_task("nowhere/my_task.py")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("lambda folder: folder / 'x'", r"my_task\.py:\d+: TypeError"),
        ("lambda folder: 7", "gave int"),
        (
            "lambda folder: Data(samples, ArraySamples(np.zeros((0, 2)), np.zeros(0, np.int64)))",
            "test is empty",
        ),
        (
            "lambda folder: Data(samples, ArraySamples(np.zeros((3, 2)), np.zeros(2, np.int64)))",
            "one row an example",
        ),
    ],
)
def test_data_that_fails_or_is_no_data_is_refused(file, data, expected):
    task = load_task(file(GOOD.replace("lambda folder: Data(samples, samples)", data)))
    with pytest.raises(InputError, match=expected):
        load_data(task, None)


def test_data_may_import_the_files_neighbours_when_it_is_called(file, tmp_path):
    (tmp_path / "my_reader.py").write_text("rows = 4\n")
    late = "def late(folder):\n    import my_reader\n    return Data(samples, samples)\n"
    task = load_task(
        file(
            GOOD.replace("task =", f"{late}task =").replace(
                "lambda folder: Data(samples, samples)", "late", 1
            )
        )
    )
    assert len(load_data(task, None).train) == 4


def test_a_files_own_search_path_stays(file, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_task(file(f"import sys\nsys.path.insert(0, '/its/own/folder')\n{GOOD}"))
    assert "/its/own/folder" in sys.path


def test_data_without_a_folder_says_that_none_was_given(file):
    task = load_task(
        file(GOOD.replace("lambda folder: Data(samples, samples)", "lambda folder: folder / 'x'"))
    )
    with pytest.raises(InputError, match="no --data DIR was given"):
        load_data(task, None)


@pytest.mark.parametrize(
    ("module", "mend"), [("sklearn.svm", r"fedloom\[data\]"), ("no_such_module", "mend the import")]
)
def test_a_package_that_is_missing_comes_with_its_mend(file, monkeypatch, module, mend):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    task = load_task(
        file(
            GOOD.replace("task =", f"def late(_):\n    import {module}\ntask =").replace(
                "lambda folder: Data(samples, samples)", "late", 1
            )
        )
    )
    with pytest.raises(InputError, match=mend):
        load_data(task, None)
