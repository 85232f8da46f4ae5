"""A device's shard is read by a process of its own, and is what it would be in this one."""

import subprocess
import sys

import numpy as np
import pytest

from fedloom_client.data.samples import LazySamples
from fedloom_client.device.home import DeviceSettings, ShardOf
from fedloom_client.device.reading import read_shard, shard_of
from fedloom_client.loading import load_task
from fedloom_edge.errors import InputError

TASK = """
import numpy as np
from fedloom_client import ArraySamples, Data, Task

def data(folder):
    print("a user's print")
    BODY

task = Task(name="mine", model=None, data=data)
"""
PLAIN = """x = np.array(["some", "texts", "here", "and", "there", "too"])
    return Data(ArraySamples(x[:4], np.arange(4) % 2), ArraySamples(x[4:], np.arange(2)))"""
LAZY = """from fedloom_client.data.samples import LazySamples
    lazy = LazySamples(lambda i: np.full(3, i, np.float32), np.arange(6) % 2)
    return Data(lazy, lazy)"""


def settings(tmp_path, body):
    path = tmp_path / "task.py"
    path.write_text(TASK.replace("BODY", body))
    return DeviceSettings(task=str(path))


def same(left, right):
    for part in ("train", "validation"):
        mine, theirs = getattr(left, part), getattr(right, part)
        order = np.arange(len(theirs))
        assert len(mine) == len(theirs)
        for a, b in zip(mine.take(order), theirs.take(order), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_a_part_of_a_task_is_the_same_as_in_this_process():
    cut = ShardOf(partition="dirichlet:0.5", clients=3, seed=1, index=2)
    chosen = DeviceSettings(task="digits", shard=cut)
    task = load_task("digits")
    same(read_shard(chosen, task), shard_of(chosen, task))


@pytest.mark.parametrize("body", [PLAIN, LAZY])
def test_a_users_own_data_comes_over_or_is_read_here(tmp_path, body):
    chosen = settings(tmp_path, body)
    task = load_task(chosen.task)
    shard = read_shard(chosen, task)
    same(shard, shard_of(chosen, task))
    assert isinstance(shard.train, LazySamples) == (body == LAZY)


def test_what_a_users_data_raises_is_told_with_its_line(tmp_path):
    chosen = settings(tmp_path, "raise RuntimeError('no sensor')")
    with pytest.raises(InputError, match=r"task.py:7: RuntimeError: no sensor"):
        read_shard(chosen, load_task(chosen.task))


def test_a_process_that_dies_is_said(tmp_path):
    chosen = settings(tmp_path, "import os; os._exit(9)")
    with pytest.raises(InputError, match="ended with 9"):
        read_shard(chosen, load_task(chosen.task))


def test_what_the_data_source_imports_stays_out_of_the_agent():
    code = """
import sys
from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.reading import load_task_light, read_shard
chosen = DeviceSettings(task="tabular")
assert len(read_shard(chosen, load_task_light("tabular")).train) == 455
assert not {"torch", "sklearn", "onnx", "onnxruntime", "flwr"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
